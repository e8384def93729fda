"""What is read of a process's threads."""

import os
import threading

import pytest

from benchmarks.thread_time import Spent, spent, thread_times


@pytest.mark.linux
def test_each_thread_has_its_own_time():
    """Of the threads that live now, the main one under the process's id; it only grows."""
    held = threading.Event()
    thread = threading.Thread(target=held.wait)
    thread.start()
    first = thread_times(os.getpid())
    assert {os.getpid(), thread.native_id} <= first.keys()
    sum(range(1_000_000))
    assert thread_times(os.getpid())[threading.get_native_id()] > first[threading.get_native_id()]
    held.set()
    thread.join(60)


def test_time_is_told_by_what_threads_do():
    """The main thread polls, the busiest other one computes, the rest serve; threads may come and go between."""
    before = {1: 5.0, 2: 1.0, 3: 1.0, 4: 7.0}
    after = {1: 5.5, 2: 9.0, 3: 1.25, 5: 0.5}
    assert spent(1, before, after) == Spent(poller=0.5, engine=8.0, requests=0.75)
