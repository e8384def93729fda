"""How many cores count as ours: affinity, and the quotas of all control groups the process is in."""

import os

import pytest

from engine.loading.host import usable_cores

HOST = len(os.sched_getaffinity(0))


@pytest.fixture
def groups(tmp_path):
    """Write `cpu.max` of the groups by their path; return what `usable_cores` takes."""

    def write(files, own="0::/system.slice/avito-ai.service\n"):
        for path, text in files.items():
            folder = tmp_path / "cgroup" / path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "cpu.max").write_text(text)
        (tmp_path / "own").write_text(own)
        return tmp_path / "cgroup", tmp_path / "own"

    return write


def test_without_a_quota_affinity_counts(groups):
    """No file, no limit, or a file nobody can read: what the scheduler allows."""
    assert usable_cores(*groups({})) == HOST
    assert usable_cores(*groups({"": "max 100000"})) == HOST
    assert usable_cores(*groups({"": "nonsense"})) == HOST
    assert usable_cores(*groups({"": "100000 0"})) == HOST


def test_the_tightest_quota_of_all_levels_counts(groups):
    """A service manager's quota stands on the process's own group, not on the root."""
    files = {"": "max 100000", "system.slice": "1000000 100000", "system.slice/avito-ai.service": "100000 100000"}
    assert usable_cores(*groups(files)) == 1


def test_a_container_sees_its_quota_on_the_root(groups):
    """There the process's path is the root, or no file tells it."""
    where = groups({"": "100000 100000"}, own="0::/\n")
    assert usable_cores(*where) == 1
    assert usable_cores(where[0], where[1].with_name("absent")) == 1


def test_less_than_a_core_is_one(groups):
    """Half a core still runs one thread; a generous quota does not make cores."""
    assert usable_cores(*groups({"": "50000 100000"}, own="0::/\n")) == 1
    assert usable_cores(*groups({"": "100000000 100000"}, own="0::/\n")) == HOST
