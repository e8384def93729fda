"""Bytes of bodies in flight: how much one client may hold, and that others always find room for theirs."""

import pytest

from edge.body_budget import BodyBudget

MIB = 1024 * 1024


def test_a_client_alone_may_hold_half():
    """In one body, or in several."""
    budget = BodyBudget(256 * MIB, 128 * MIB)
    assert budget.reserve("a", 129 * MIB) is None
    held = [budget.reserve("a", 64 * MIB), budget.reserve("a", 64 * MIB)]
    assert all(held)
    assert budget.reserve("a", 1) is None
    held[0].release()
    assert budget.reserve("a", 64 * MIB) is not None


@pytest.mark.parametrize("greedy", [2, 3, 8])
def test_a_few_clients_that_take_all_they_may_keep_out_nobody(greedy):
    """Two that hold half each would have refused every body of others, for as long as they send slowly."""
    budget = BodyBudget(256 * MIB, 128 * MIB)
    for client in range(greedy):
        size = 128 * MIB
        while size >= MIB:
            if budget.reserve(f"greedy {client}", size) is None:
                size //= 2
    assert budget.reserve("other", 64 * 1024) is not None
    assert budget.in_flight < budget.total


def test_a_body_that_grows_takes_its_share_as_one_whose_length_is_known():
    """Byte by byte it comes to no more, and what is refused takes nothing."""
    budget = BodyBudget(1000, 500)
    first = budget.reserve("a", 400)
    growing = budget.reserve("b", 100)
    assert first is not None
    assert growing is not None
    while growing.grow(10):
        pass
    assert growing.size == 400
    assert budget.in_flight == 800
    growing.release()
    first.release()
    assert (budget.in_flight, budget.peak, budget.refusals) == (0, 800, 1)


def test_the_largest_body_is_taken_beside_small_ones():
    """With the default of 128 MiB, one of 64, which the API reads."""
    budget = BodyBudget(128 * MIB, 64 * MIB)
    assert budget.reserve("a", 1000) is not None
    assert budget.reserve("b", 63 * MIB) is not None
    assert budget.reserve("c", 16 * MIB) is not None


@pytest.mark.parametrize(("total", "per_client"), [(100, 50), (100, 100), (101, 90), (7, 7)])
def test_what_one_client_may_hold_at_most_is_told(total, per_client):
    """As much as it is given where nobody else has any, and not a byte more."""
    most = BodyBudget(total, per_client).most_of_one
    assert BodyBudget(total, per_client).reserve("a", most) is not None
    assert BodyBudget(total, per_client).reserve("a", most + 1) is None
