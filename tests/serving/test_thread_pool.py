"""A pool whose idle threads do not take turns."""

import queue
import threading
from concurrent.futures import wait

import pytest

from serving.thread_pool import RecentFirstPool, RecentFirstQueue

THREADS = 12


@pytest.fixture
def pool():
    """A pool all of whose threads are started, and idle."""
    with RecentFirstPool(THREADS) as pool:
        started = threading.Barrier(THREADS)
        wait([pool.submit(started.wait) for _ in range(THREADS)])
        yield pool


def idle(pool):
    """Wait until every thread waits for a call."""
    while len(pool._work_queue._waiting) < THREADS:
        threading.Event().wait(0.001)


def test_one_call_after_another_is_served_by_one_thread(pool):
    """However many there are: the others keep nothing of what the calls need."""
    served = set()
    for _ in range(50):
        idle(pool)
        served.add(pool.submit(threading.get_ident).result())
    assert len(served) == 1


def test_calls_at_the_same_time_have_a_thread_each(pool):
    """And those beyond wait for one, in order."""
    together = threading.Barrier(THREADS)
    assert len({*(done.result() for done in [pool.submit(together.wait) for _ in range(THREADS)])}) == THREADS
    order = []
    gate = threading.Event()
    held = [pool.submit(gate.wait) for _ in range(THREADS)]
    more = [pool.submit(order.append, number) for number in range(30)]
    gate.set()
    wait([*held, *more])
    assert sorted(order) == list(range(30))


def test_every_call_is_served_whoever_comes_when(pool):
    """No call is lost, and none served twice, between threads that come and go."""
    counted = [0] * 2000
    callers = [
        threading.Thread(
            target=lambda start=start: [
                pool.submit(counted.__setitem__, number, counted[number] + 1) for number in range(start, 2000, 4)
            ]
        )
        for start in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    pool.shutdown()
    assert counted == [1] * 2000


def test_a_pool_that_ends_cancels_what_waits():
    """As the standard library's does; its threads end."""
    pool = RecentFirstPool(1)
    begun, gate = threading.Event(), threading.Event()
    pool.submit(lambda: (begun.set(), gate.wait()))
    begun.wait()
    waiting = pool.submit(print)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert waiting.cancelled()
    for thread in pool._threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_queue_without_calls_says_so():
    """To who does not wait."""
    with pytest.raises(queue.Empty):
        RecentFirstQueue().get_nowait()
