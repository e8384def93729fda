"""Masks of answers that have taken least are computed first, and few slow ones at once."""

import threading

import pytest

from engine.cores import Cores
from engine.text.mask_pool import MaskPool
from tests.fakes import PATIENCE
from tests.held_jobs import HeldJobs


class Work(HeldJobs):
    """A pool whose jobs are held."""

    def __init__(self, **limits):
        super().__init__()
        self.pool = MaskPool(**limits)

    def submit(self, name, spent=0.0, slow=False, lock=None):
        """Submit a job."""
        return self.pool.submit(lambda: self.do(name), spent, slow, lock or threading.Lock())


@pytest.fixture
def work():
    """Make a pool of one's own limits; it is closed, and its jobs let go."""
    made = []

    def make(**limits):
        made.append(Work(**limits))
        return made[-1]

    yield make
    for one in made:
        one.let_go(*"abcdef")
        one.pool.close()


def test_who_has_taken_least_comes_first(work):
    """And among equals who came first."""
    one = work(threads=1)
    one.submit("a")
    one.wait_for("a")
    for name, spent in (("b", 2.0), ("c", 1.0), ("d", 1.0)):
        last = one.submit(name, spent)
    one.let_go(*"abcd")
    assert last.result(PATIENCE) == "d"
    one.wait_for("a", "c", "d", "b")


@pytest.mark.parametrize("slow", [False, True])
def test_no_thread_waits_for_a_lock(work, slow):
    """A job whose lock is held gives way to others, and has its turn once the lock is free."""
    one, lock = work(threads=1), threading.Lock()
    one.let_go(*"abc")
    with lock:
        held = one.submit("a", slow=slow, lock=lock)
        assert one.submit("b", spent=9.0, slow=slow).result(PATIENCE) == "b"
        assert not held.done()
    assert held.result(PATIENCE) == "a"
    assert one.submit("c", slow=slow, lock=lock).result(PATIENCE) == "c"
    assert not lock.locked()


def test_few_slow_ones_are_computed_at_once(work):
    """They never have all threads: a quick one is computed meanwhile."""
    one = work(threads=2, slow=1)
    slow = [one.submit(name, slow=True) for name in "ab"]
    one.wait_for("a")
    one.let_go("c")
    assert one.submit("c", spent=9.0).result(PATIENCE) == "c"
    one.wait_for("a", "c")
    one.let_go("a", "b")
    assert [future.result(PATIENCE) for future in slow] == ["a", "b"]


def test_a_slow_one_takes_a_core_from_the_models(work):
    """A quick one does not."""
    cores = Cores()
    one = work(threads=2, slow=1, cores=cores)
    one.submit("a")
    one.wait_for("a")
    with cores.step(4, "model") as taken:
        assert taken == 4
    future = one.submit("b", slow=True)
    one.wait_for("a", "b")
    with cores.step(4, "model") as taken:
        assert taken == 3
    one.let_go("b")
    assert future.result(PATIENCE) == "b"
    assert one.submit("c", slow=True) is not None
    one.wait_for("a", "b", "c")


def test_an_error_is_that_of_its_job(work):
    """The thread goes on."""
    one = work(threads=1, slow=1)

    def fail():
        raise ValueError("no")

    for slow in (False, True, True):
        with pytest.raises(ValueError, match="no"):
            one.pool.submit(fail, 0.0, slow, threading.Lock()).result(PATIENCE)
    one.let_go("a")
    assert one.submit("a").result(PATIENCE) == "a"


def test_what_waits_is_cancelled_when_the_pool_is_closed(work):
    """And what comes later; threads end."""
    one = work(threads=1, slow=1)
    running = one.submit("a")
    one.wait_for("a")
    waiting = one.submit("b"), one.submit("c", slow=True)
    one.pool.close()
    assert all(future.cancelled() for future in (*waiting, one.submit("d")))
    one.let_go("a")
    assert running.result(PATIENCE) == "a"
    one.wait_for("a")
