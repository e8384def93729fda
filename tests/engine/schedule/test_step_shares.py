"""The limits of a step, by themselves: who is held back, and to what."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedule.step_shares import (
    ALONE,
    EXCESS_SHARE,
    EXPECTED_FOR,
    LATELY,
    MANY,
    NOT_BACK,
    POOL,
    TIMES,
    StepShares,
    divided,
)
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
    """Never before it has met one, nor long after; and never where steps have no fixed cost. Prompts have the rest."""
    shares = StepShares(8)
    assert shares.limits(held(a=9), None).tokens is None
    shares.limits(held(a=9, b=1), None)
    for _ in range(EXPECTED_FOR):
        limits = shares.limits(held(a=9), None)
        assert (limits.rows, limits.tokens, shares.excess(limits, 9)) == (8, 8 * ALONE, 0)
    assert shares.limits(held(a=9), None).tokens is None
    free = StepShares(0)
    free.limits(held(a=9, b=1), None)
    assert free.limits(held(a=9), None).tokens is None


def shares_after(**tokens):
    """Return shares after a step that computed so many tokens of each client."""
    shares = StepShares(8)
    shares.count([], [(sequence(client), many) for client, many in tokens.items()])
    return shares


def back(*clients, priority=Priority.INTERACTIVE):
    return frozenset((client, priority) for client in clients)


def batches(*clients, chats=0, high=0):
    """Return the slots of batches of these clients, one each, beside those of somebody's chats."""
    return {
        Priority.HIGH: Counter(boss=high) if high else Counter(),
        Priority.INTERACTIVE: Counter(chat=chats) if chats else Counter(),
        Priority.BATCH: Counter(clients),
    }


@pytest.mark.parametrize(
    ("tokens", "slots", "named"),
    [
        ({"a": 9, "b": 8}, {"a": MANY, "b": 1}, "a"),
        ({"a": 8, "b": 8}, {"a": MANY, "b": 1}, ""),  # has had no more
        ({"a": 9, "b": 8}, {"a": MANY - 1, "b": 1}, ""),  # has not many
        ({"a": 9, "b": 8}, {"a": 2 * TIMES, "b": 2}, ""),  # has not many times as many
        ({"a": 9, "b": 8}, {"a": 2 * TIMES + 1, "b": 2}, "a"),
        ({"a": 9, "b": 4, "c": 4}, {"a": MANY, "b": 1, "c": 1}, "a"),
        ({"a": 9, "b": 4, "c": 5}, {"a": MANY, "b": 1, "c": 1}, ""),  # the others together have had as much
        ({"a": 9, "gone": 9}, {"a": MANY, "new": 1}, ""),  # those that have left count as well
        ({"a": 9, "c": 9}, {"a": MANY, "b": 1, "c": MANY, "d": 1, "e": 1}, "ac"),
        ({"a": 9, "c": 9}, {"a": MANY, "c": MANY}, ""),  # both are alike
    ],
)
def test_a_client_with_many_sequences_stands_back_while_others_have_had_less(tokens, slots, named):
    """None of its sequences is computed in any case; of the others' as many as ever."""
    limits = shares_after(**tokens).limits(held(**slots), None)
    assert limits.back == back(*named)
    within, beyond = divided([[sequence(client) for _ in range(many)] for client, many in slots.items()], limits)
    assert {one.request.client for one in within} == slots.keys() - set(named)
    assert len(within) + len(beyond) == sum(slots.values())


@pytest.mark.parametrize(
    ("started", "named"),
    [
        ({"a": MANY}, "a"),
        ({"a": MANY - 1}, ""),
        ({"a": MANY, "b": 2}, ""),  # not so many times as many as the median client
        ({"a": 2 * TIMES + 1, "b": 2, "c": 2}, "a"),
        ({"a": MANY, "b": MANY}, ""),  # both are alike
        ({"gone": MANY}, ""),
    ],
)
def test_a_client_that_has_started_many_lately_stands_back_as_well(started, named):
    """However few of them run at once: what is over soon is work too. It is forgotten as what was computed is."""
    shares = shares_after(a=9, b=8)
    for client, many in started.items():
        for _ in range(many):
            shares.started(sequence(client))
    slots = held(a=1, b=1)
    assert shares.limits(slots, None).back == back(*named)
    for _ in range(2 * LATELY):
        shares.count([], [])
    shares.count([], [(sequence("a"), 90)])
    assert not shares.limits(slots, None).back


def test_a_batch_is_beyond_its_share_and_not_its_clients_chat():
    """They are judged apart: what the batch has had is not held against the chat."""
    shares = StepShares(8)
    shares.count([], [(sequence("a", batch=True), 90), (sequence("b"), 8)])
    slots = NOBODY | {Priority.INTERACTIVE: Counter(a=1, b=1), Priority.BATCH: Counter(a=MANY)}
    limits = shares.limits(slots, None)
    assert not limits.back
    chat, batch, other = sequence("a"), [sequence("a", batch=True) for _ in range(MANY)], sequence("b")
    assert divided([[chat], [other]], limits, batch) == ([chat, other, batch[0]], batch[1:])


def test_a_batch_stands_back_for_other_batches():
    """Where nothing else runs, they are judged as chats are."""
    shares = StepShares(8)
    shares.count([], [(sequence("a", batch=True), 90), (sequence("b", batch=True), 8)])
    limits = shares.limits(batches(*"a" * MANY, "b"), None)
    assert limits.back == back("a", priority=Priority.BATCH)


def test_high_priority_never_stands_back():
    """However much it has had; nor does it make others with few sequences do so."""
    shares = StepShares(8)
    shares.count([], [(sequence("a", high=True), 90)])
    slots = NOBODY | {Priority.HIGH: Counter(a=MANY), Priority.INTERACTIVE: Counter(b=1)}
    assert shares.limits(slots, None).back == frozenset()


def test_a_client_stands_back_for_a_newcomer_from_its_first_step_on():
    """Where the newcomer finds no room after all, the scheduler computes what is beyond the share."""
    limits = shares_after(a=9).limits(held(a=MANY), sequence("b"))
    within, _ = divided([[sequence("a") for _ in range(MANY)]], limits)
    assert limits.back == back("a")
    assert within == []


def test_nobody_stands_back_in_one_step_of_so_many():
    """So that an answer that has begun always goes on."""
    shares, backs = shares_after(a=9), []
    for _ in range(3 * NOT_BACK):
        backs.append(shares.limits(held(a=MANY, b=1), None).back)
        shares.count([], [])
    assert backs.count(frozenset()) == 3


def test_what_was_computed_long_ago_counts_for_less_and_less():
    """A client that had much asks for no more than its share once it has stood back for a while."""
    shares = shares_after(a=8 * LATELY)
    steps = 0
    while shares.limits(held(a=MANY, b=1), None).back or not (steps + 1) % NOT_BACK:
        shares.count([sequence("b")], [])
        steps += 1
    assert 2 * LATELY < steps < 4 * LATELY


@pytest.mark.parametrize(
    ("slots", "newcomer"),
    [
        (batches(*"abcdefgh", chats=10), None),
        (batches(*"abcdefgh", high=1), None),
        (batches(*"abcdefgh"), sequence("chat")),
        (batches(*"aaaaaaaa", chats=10), sequence("i", batch=True)),
        (batches("chat", chats=10), None),
    ],
    ids=["chats", "high priority", "a chat that starts", "a batch that starts", "its own chats"],
)
def test_batches_have_one_share_beside_anything_else(slots, newcomer):
    """However many clients have sent them, and more where that costs little; chats of one client are not held back."""
    shares = shares_after(chat=900)
    limits = shares.limits(slots, newcomer)
    assert (limits.pooled, limits.rows, limits.pool, limits.alone, limits.back) == (
        True,
        None,
        POOL,
        False,
        frozenset(),
    )
    assert shares.excess(limits, 7) == 0
    assert StepShares(256).excess(limits, 8) == 32
    assert limits.beyond(sequence("z", batch=True), POOL + 1)
    assert not limits.beyond(sequence("chat"), 10)
    chats, pool = [sequence("chat") for _ in range(10)], [sequence(client, batch=True) for client in "abc"]
    assert divided([chats], limits, pool) == ([*chats, pool[0]], pool[1:])


def test_chats_share_steps_as_without_the_batches_beside_them():
    """What a batch has had lately is not held against those who stand back for other chats."""
    slots = batches(*"abcd", chats=1) | {Priority.INTERACTIVE: Counter(chat=1, many=MANY)}
    for had, back_of in (({"many": 9, "chat": 8}, "many"), ({"many": 8, "chat": 8}, "")):
        shares = shares_after(**had)
        shares.count([], [(sequence("a", batch=True), 500)])
        limits = shares.limits(slots, None)
        assert (limits.pooled, limits.rows) == (True, 1)
        assert limits.back == (back(back_of) if back_of else frozenset())


def test_batches_go_on_in_turn():
    """The client that has had least is the next, with its sequence that started first."""
    shares = StepShares(8)
    shares.limits(batches("a", "b", chats=1), None)
    a, second, b = (sequence(client, batch=True) for client in "aab")
    had = Counter()
    for _ in range(10):
        first = shares.in_turn([a, second, b])[0]
        shares.count([first], [])
        had[first] += 1
    assert had == {a: 5, b: 5}


def test_batches_by_themselves_are_divided_among_their_clients():
    """As chats are, where nothing else has run lately or steps have no fixed cost."""
    for shares in (StepShares(8), StepShares(0)):
        limits = shares.limits(batches("a", "a", "a", "b", "c"), None)
        assert (limits.pooled, limits.rows, limits.alone, limits.tokens) == (False, 1, False, None)


@pytest.mark.parametrize("before", [batches(*"abcdefgh", chats=1), held(chat=1)], ids=["beside them", "before them"])
@pytest.mark.parametrize("slots", [batches(*"abcdefgh"), batches("a")], ids=["eight clients", "one"])
def test_steps_of_batches_are_short_while_others_come_and_go(before, slots):
    """A chat that comes waits for the step that is computed; not for ever, nor where a long one costs no more."""
    shares = StepShares(8)
    shares.limits(before, None)
    for _ in range(EXPECTED_FOR):
        limits = shares.limits(slots, None)
        assert (limits.pooled, limits.rows, limits.pool) == (True, 8, 8)
        assert (limits.tokens, shares.excess(limits, 9)) == (8 * ALONE, 0)
    limits = shares.limits(slots, None)
    assert (limits.pooled, limits.tokens) == (False, None)
    free = StepShares(0)
    free.limits(before, None)
    assert not free.limits(slots, None).pooled


def test_nobody_stands_back_where_all_have_or_had_many():
    """One by its sequences and the other by its starts: neither would be computed."""
    shares = shares_after(a=9, b=8)
    for _ in range(MANY):
        shares.started(sequence("b"))
    assert not shares.limits(held(a=MANY, b=1), None).back
    assert shares.limits(held(a=MANY, b=1, c=1), None).back == back("a", "b")
    assert shares.limits(held(a=MANY, b=1), sequence("c")).back == back("a", "b")
