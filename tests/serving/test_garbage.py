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
