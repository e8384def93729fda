"""A successor loads behind the service that still answers, and serves like any other afterwards; each leaves cores."""

import os
import subprocess
import sys
import time

import pytest

from engine.cores import Cores
from serving import priority
from serving.priority import NICENESS, Successors, yielding

pytestmark = pytest.mark.linux
PIPES = {"stdin": subprocess.PIPE}
LOADING = '''
import os, threading
from serving.priority import yielding

def nice(number=0):
    return os.getpriority(os.PRIO_PROCESS, number) - usual

def begin():
    told.append(nice())
    begun.append(helper())
    going.set()
    over.wait()
    told.append(nice())

def helper():
    """A process that steps back by itself, as those that decode images do; it ends with this one."""
    child = os.fork()
    if not child:
        os.nice(5)
        os.write(ready[1], b"R")
        os.read(end[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    return child

ready, end = os.pipe(), os.pipe()
usual, told, begun = os.getpriority(os.PRIO_PROCESS, 0), [], []
going, over = threading.Event(), threading.Event()
{before}
with yielding():
    told.append(nice())
    thread = threading.Thread(target=begin)
    thread.start()
    going.wait()
    told.append(nice(begun[0]))
told += [nice(), nice(begun[0])]
over.set()
thread.join()
os.write(end[1], b"E")
os.waitpid(begun[0], 0)
print(*told)
'''
# Without the capability that root has, by which any process may do so.
UNPRIVILEGED = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"


def niceness(before=""):
    """Return by how much what runs is behind others: loader, its thread, its helper; then loader, helper, thread."""
    command = [sys.executable, "-c", LOADING.replace("{before}", before)]
    return [
        int(word)
        for word in subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.split()
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs LimitNICE, see the last test")
def test_all_that_loads_runs_behind_others_until_it_is_loaded():
    """Its threads and helper processes too, these by as much more as they always do."""
    assert niceness() == [NICENESS, NICENESS, NICENESS + 5, 0, 5, 0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give its right away")
def test_nothing_changes_where_it_could_not_be_undone():
    """A service that has no right to return to its usual priority keeps it."""
    none = "import resource; resource.setrlimit(resource.RLIMIT_NICE, (0, 0))"
    assert niceness(f"{none}; {UNPRIVILEGED}") == [0, 0, 5, 0, 5, 0]


def share(cores):
    """Return how many of four cores a model's step would take now."""
    with cores.step(4, "a") as taken:
        return taken


@pytest.mark.parametrize("may_return", [True, False])
def test_a_successor_leaves_a_core_until_it_has_loaded(monkeypatch, may_return):
    """Whether its priority can be changed or not, and also where the load fails."""
    monkeypatch.setattr(priority, "_can_return", lambda: may_return)
    monkeypatch.setattr(os, "setpriority", lambda *of: None)
    monkeypatch.setattr(priority, "CORES", cores := Cores())
    shares = []

    def load():
        with yielding():
            shares.append(share(cores))
            raise OSError("injected")

    with pytest.raises(OSError, match="injected"):
        load()
    assert [*shares, share(cores)] == [3, 4]


def test_the_old_service_leaves_a_core_while_there_is_a_successor():
    """Another child of its master; nothing changes with each look, nor where the master has ended."""
    cores = Cores()
    seen = Successors(cores)
    with subprocess.Popen(["sh", "-c", "read a; sleep 1000 & read b; kill $!; wait; read c"], **PIPES) as parent:
        seen.look(parent.pid)
        assert share(cores) == 4
        tell(parent)
        looked_until(seen, parent.pid, lambda: share(cores) == 3)
        seen.look(parent.pid)
        assert share(cores) == 3
        tell(parent)
        looked_until(seen, parent.pid, lambda: share(cores) == 4)
        parent.communicate(b"\n", timeout=60)
    seen.look(parent.pid)
    assert share(cores) == 4


def tell(process):
    """Have the script go on."""
    process.stdin.write(b"\n")
    process.stdin.flush()


def looked_until(seen, parent, condition):
    """Look until a condition holds."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        seen.look(parent)


def test_the_unit_gives_the_right():
    """Down to the usual nice value, and no further."""
    with open("avito-ai.service", encoding="utf-8") as unit:
        assert "LimitNICE=+0\n" in unit.readlines()
