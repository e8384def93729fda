"""The limits of a step, by themselves: who is held back, and to what."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedule.step_shares import ALONE, EXCESS_SHARE, EXPECTED_FOR, StepShares, divided
from engine.types import Priority
from tests.engine.sequences import sequence

NOBODY = {priority: Counter() for priority in Priority}


def held(**clients):
    """Return the slots of interactive clients."""
    return NOBODY | {Priority.INTERACTIVE: Counter(clients)}


counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 12), min_size=2)


@settings(max_examples=100, deadline=None)
@given(counts, st.integers(0, 300))
def test_each_client_computes_as_many_as_the_median_or_an_eighth_of_the_step(clients, overhead):
    """No client has less than its own number or the median's; nobody beyond lengthens the step by more than that."""
    shares = StepShares(overhead)
    limits = shares.limits(held(**clients), None)
    within, beyond = divided([[sequence(client) for _ in range(many)] for client, many in clients.items()], limits)
    assert not limits.alone
    assert limits.tokens is None
    assert sum(many >= limits.rows for many in clients.values()) * 2 >= len(clients)
    for client, many in clients.items():
        assert sum(one.request.client == client for one in within) == min(many, limits.rows)
    assert len(within) + len(beyond) == sum(clients.values())
    excess = max(0, shares.excess(limits, len(within)))
    assert excess == 0 or EXCESS_SHARE * (excess + limits.rows) <= overhead + len(within)


def test_high_priority_is_never_beyond():
    """Its clients' sequences count for the median, and run all."""
    limits = StepShares(0).limits(NOBODY | {Priority.HIGH: Counter(a=9), Priority.INTERACTIVE: Counter(b=1)}, None)
    assert limits.rows == 1
    assert divided([[sequence("a", high=True) for _ in range(9)]], limits)[1] == []


def test_a_newcomer_counts_before_it_has_a_slot():
    """The step in which it starts is shared already; a further request of the same client is none."""
    shares = StepShares(8)
    assert shares.limits(held(a=9), sequence("a")).alone
    assert shares.limits(held(a=9), sequence("b")).rows == 1
    assert shares.limits(NOBODY, sequence("b")).alone


def test_a_lone_client_is_limited_only_while_others_are_expected():
    """Never before it has met one, nor long after; and never where steps have no fixed cost."""
    shares = StepShares(8)
    assert shares.limits(held(a=9), None).tokens is None
    shares.limits(held(a=9, b=1), None)
    for _ in range(EXPECTED_FOR):
        limits = shares.limits(held(a=9), None)
        assert (limits.rows, limits.tokens, shares.excess(limits, 9)) == (8 * ALONE, 8 * ALONE, 0)
    assert shares.limits(held(a=9), None).tokens is None
    free = StepShares(0)
    free.limits(held(a=9, b=1), None)
    assert free.limits(held(a=9), None).tokens is None
