"""What the soak makes of the memory that it sees."""

from benchmarks.proof.service import Footprint
from benchmarks.proof.soak import parts


def looks(*resident):
    return [Footprint(size, 1, 1, 1, 1) for size in resident]


def test_memory_is_compared_by_parts_of_the_soak():
    """Each is the mean of as many looks; what is left over at the end belongs to none."""
    assert parts(looks(1, 3, 5, 5, 9, 11, 100), 3) == [2, 5, 10]


def test_few_looks_are_a_part_each():
    """So that a soak that is cut short has a first and a last one."""
    assert parts(looks(7, 8), 10) == [7, 8]
