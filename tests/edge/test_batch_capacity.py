"""Batches are bounded, the bound is shared between clients, and a batch ends once."""

import pytest

from edge.batch_capacity import RETRY_AFTER, BatchCapacity
from engine.errors import Overloaded


def refused(capacity, client):
    """Return whether a batch of a client is refused, which `would_refuse` has told."""
    told = capacity.would_refuse(client)
    if told is None:
        capacity.admit(client)
        return False
    with pytest.raises(Overloaded) as raised:
        capacity.admit(client)
    assert told.retry_after == raised.value.retry_after == RETRY_AFTER
    return True


def test_one_client_has_half_of_the_capacity():
    """The first batch of another has one all the same, and so has the last of many clients."""
    capacity = BatchCapacity(8)
    assert [refused(capacity, "greedy") for _ in range(6)] == [False] * 4 + [True] * 2
    assert [refused(capacity, f"other-{number}") for number in range(5)] == [False] * 4 + [True]


def test_a_batch_ends_once():
    """Also where that is told twice: another batch may have begun by then."""
    capacity = BatchCapacity(1)
    leave = capacity.admit("a")
    assert refused(capacity, "b")
    leave()
    assert not refused(capacity, "b")
    leave()
    assert refused(capacity, "a")


def test_a_capacity_of_one_goes_to_whoever_comes():
    """However small the service, one batch runs."""
    capacity = BatchCapacity(1)
    capacity.admit("a")()
    capacity.admit("a")
    with pytest.raises(Overloaded):
        capacity.admit("a")


def test_clients_that_have_left_are_forgotten():
    """Strangers have keys without number; the figures are those of batches in flight."""
    capacity = BatchCapacity(2)
    for number in range(100):
        capacity.admit(f"client-{number}")()
    assert not capacity._of
    assert capacity.figures() == (0, 2, 0)
    capacity.admit("another")
    capacity.count_refused()
    assert capacity.figures() == (1, 2, 1)
