"""The memory that a process can still allocate, within its control groups."""

import psutil
import pytest

from engine.loading.control_groups import cgroup_bytes, cgroup_limit
from engine.loading.host import available_bytes, reserved_bytes, total_bytes


@pytest.fixture
def groups(tmp_path):
    """A tree of control groups, two deep, with this process in the inner one."""
    root = tmp_path / "cgroup"
    (root / "outer" / "inner").mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("1:name=x:/\n0::/outer/inner\n")
    return root, own


def limit(group, maximum, current, cached=0):
    """Write the files of one control group."""
    (group / "memory.max").write_text(f"{maximum}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(f"anon 5\nactive_file {cached}\ninactive_file {cached}\n")


def test_the_tightest_group_counts(groups):
    """The limit of any enclosing group applies; cached file pages count as free."""
    root, own = groups
    limit(root / "outer", 1000, 700)
    limit(root / "outer" / "inner", 500, 300, cached=50)
    assert cgroup_bytes(root, own) == 300
    limit(root / "outer", 1000, 950)
    assert cgroup_bytes(root, own) == 50
    assert cgroup_limit(root, own) == 500


def test_no_limit_is_no_limit(groups):
    """A group without a maximum, and a system without control groups, set no limit."""
    root, own = groups
    limit(root / "outer" / "inner", "max", 300)
    assert cgroup_bytes(root, own) is None
    assert cgroup_limit(root, own) is None
    own.write_text("3:memory:/x\n")
    assert cgroup_bytes(root, own) is None
    assert cgroup_bytes(root, root / "nothing") is None


def test_the_host_has_some_memory():
    """On the CPU it is what the host and the control groups leave free."""
    assert 0 < available_bytes("cpu") <= psutil.virtual_memory().total


def test_total_is_the_memory_of_the_machine():
    """Used and free."""
    assert total_bytes("cpu") == psutil.virtual_memory().total >= available_bytes("cpu")


def test_on_the_cpu_nothing_is_reserved():
    """Only a GPU's allocator keeps memory apart."""
    assert reserved_bytes("cpu") == 0
