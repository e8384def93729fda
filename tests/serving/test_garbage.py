"""The garbage collector visits nothing that was there before the first request."""

import subprocess
import sys

COLLECTIONS = """
import gc
from serving.garbage import exempt_existing_objects

loaded = [[number] for number in range(50_000)]
exempt_existing_objects()
after = [[number] for number in range(100)]
print(sum(len(gc.get_objects(generation)) for generation in range(3)))
cycle = [[]]
cycle[0].append(cycle)
del cycle
print(gc.collect())
"""


def test_loaded_objects_are_not_visited_and_later_garbage_is_collected():
    """50,000 containers are exempt; a cycle made afterwards is found."""
    command = [sys.executable, "-c", COLLECTIONS]
    visited, collected = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()
    assert 100 < int(visited) < 10_000
    assert int(collected) >= 2


FULL = """
import gc
from serving.garbage import DUE, FEW, LONGEST, FullCollections

now, alive, full = 0.0, 0, 0


def count(phase, info):
    global full
    full += phase == "stop" and info["generation"] == 2


collections = FullCollections(3600.0, lambda: alive, lambda: now)
alive = FEW + 1
collections.start()
while gc.get_threshold()[2] <= DUE:
    pass
gc.collect()
gc.callbacks.append(count)
kept = [[number] for number in range(1_000_000)]
by_itself = full
collections.look()
put_off = full
alive = FEW
collections.look()
few = full
kept += [[number] for number in range(1_000_000)]
alive = 2 * FEW + 1
collections.look()
now = LONGEST
collections.look()
print(by_itself, put_off, few, full)
collections.end()
"""


def test_full_collections_wait_until_few_containers_are_alive_but_not_for_ever():
    """Python itself makes none, whatever is allocated; one that is due is put off while much is alive."""
    command = [sys.executable, "-c", FULL]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.split() == ["0", "0", "1", "2"]


TUPLES = """
import gc, sys, threading
from serving.garbage import FullCollections

sys.setswitchinterval(1e-5)
collections, made, failed = FullCollections(3600.0, clock=lambda: 0.0), threading.Event(), 0
alive = collections._alive


def count():
    while not made.is_set():
        alive()


def numbers():
    for number in range(2000):
        if number == 20:
            gc.collect()  # the tuple so far is among the oldest objects then
        yield number


threading.Thread(target=count).start()
for _ in range(300):
    try:
        tuple(numbers())
    except SystemError:
        failed += 1
made.set()
print(failed)
"""


def test_what_another_thread_is_making_is_not_disturbed():
    """By a list of all containers, a tuple that grows in another thread would fail: at an import, or in any request."""
    result = subprocess.run([sys.executable, "-c", TUPLES], capture_output=True, text=True, check=True, timeout=600)
    assert result.stdout.split() == ["0"]
