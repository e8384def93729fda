"""The garbage collector visits nothing that was there before the first request."""

import json
import subprocess
import sys

from serving.garbage import FEW, LONG, LONGEST, REST

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
import gc, json, sys
from serving.garbage import DUE, FullCollections

now, alive, full, kept, made = 0.0, 0, 0, [], []


def count(phase, info):
    global full, now
    if phase == "stop" and info["generation"] == 2:
        full, now = full + 1, now + 0.1


collections = FullCollections(3600.0, lambda: alive, lambda: now)
collections.start()
while gc.get_threshold()[2] <= DUE:
    pass
gc.collect()
gc.callbacks.append(count)
for now, alive in json.loads(sys.argv[1]):
    while gc.get_count()[2] <= DUE:
        kept.append([[number] for number in range(100_000)])
    before = full
    collections.look()
    made.append(full - before)
print(json.dumps([full, made]))
collections.end()
"""
# When it is looked, in seconds; how many blocks are alive; whether that makes a collection, each of which takes 0.1 s.
LOOKS = [
    (0.0, FEW + 1, False),
    (1.0, FEW, True),
    (1.0 + 0.1 * REST, FEW, False),
    (1.2 + 0.1 * REST, FEW, True),
    (10.0, FEW + 1, False),
    (11.0, 3 * FEW, False),
    (10.0 + LONG, 5 * FEW, False),  # now FEW + 1 are usual, the fewest since it is due
    (11.0 + LONG, 2 * FEW + 2, False),
    (12.0 + LONG, 2 * FEW + 1, True),
    (100.0, 30 * FEW, False),
    (100.0 + LONGEST, 40 * FEW, True),  # for the last time; the 30 * FEW are usual
    (300.0, 40 * FEW, False),
    (301.0, 31 * FEW, True),
]


def test_full_collections_wait_until_few_containers_are_alive_but_not_for_ever():
    """Python itself makes none, whatever is allocated; one that is due is put off while more is alive than usual.

    What is alive for long is usual. One that cannot be put off any longer changes nothing about that.
    """
    looks = json.dumps([look[:2] for look in LOOKS])
    command = [sys.executable, "-c", FULL, looks]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    full, made = json.loads(result.stdout)
    assert made == [collects for *_, collects in LOOKS]
    assert full == sum(made)


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
