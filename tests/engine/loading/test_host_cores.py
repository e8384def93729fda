"""The number of usable cores: affinity, and the quotas of all control groups of the process."""

import os

import pytest

from engine.loading.control_groups import usable_cores

HOST = len(os.sched_getaffinity(0))


@pytest.fixture
def groups(tmp_path):
    """Write `cpu.max` files by group path; return the arguments of `usable_cores`."""

    def write(files, own="0::/system.slice/avito-ai.service\n"):
        for path, text in files.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(text)
        (tmp_path / "own").write_text(own)
        return tmp_path / "cgroup", tmp_path / "own"

    return write


def test_without_a_quota_affinity_counts(groups):
    """Without a file, without a limit, or with an invalid file: the cores of the CPU affinity."""
    assert usable_cores(*groups({})) == HOST
    assert usable_cores(*groups({"": "max 100000"})) == HOST
    assert usable_cores(*groups({"": "nonsense"})) == HOST
    assert usable_cores(*groups({"": "100000 0"})) == HOST


def test_the_tightest_quota_of_all_levels_counts(groups):
    """A service manager sets the quota on the group of the process, not on the root."""
    files = {"": "max 100000", "system.slice": "1000000 100000", "system.slice/avito-ai.service": "100000 100000"}
    assert usable_cores(*groups(files)) == 1


def test_a_container_sees_its_quota_on_the_root(groups):
    """There the path of the process is the root, or there is no file with the path."""
    root, own = groups({"": "100000 100000"}, own="0::/\n")
    assert usable_cores(root, own) == 1
    assert usable_cores(root, own.with_name("absent")) == 1


def test_less_than_a_core_counts_as_one(groups):
    """Half a core still runs one thread; a quota above the number of cores adds none."""
    assert usable_cores(*groups({"": "50000 100000"}, own="0::/\n")) == 1
    assert usable_cores(*groups({"": "100000000 100000"}, own="0::/\n")) == HOST
