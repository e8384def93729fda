"""A queue position is exact: as many sequences start first as it says, if no others arrive."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schedule.waiting_room import ORDER_LASTS, WaitingRoom
from engine.types import Priority, QueuePosition
from tests.engine.sequences import sequence
from tests.fakes import Clock

HIGH, INTERACTIVE, BATCH = Priority


def come(room, client="", **details):
    """Admit a request and queue it; return its sequence."""
    room.admit(client)
    submitted = sequence(client, on_abort=room.notify_abort, **details)
    room.put(submitted)
    return submitted


def start(room, held):
    """Take the next one as the engine does; it then holds a slot."""
    taken = room.take(held)
    held[taken.request.priority][taken.request.client] += 1
    return taken


REQUESTS = st.tuples(st.sampled_from("abcd"), st.integers(1, 900), st.sampled_from(Priority))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(REQUESTS, min_size=1, max_size=25),
    st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Priority)), max_size=6),
    st.integers(0, 12),
)
def test_sequences_start_in_the_order_of_their_positions(requests, slots, started):
    """For any queue, any slots held and any state of the round, positions are the order of the next starts."""
    clock = Clock()
    room = WaitingRoom(100, 1_000_000, clock)
    held = {priority: Counter(client for client, kind in slots if kind is priority) for priority in Priority}
    waiting = [
        come(room, client, tokens=tokens, batch=kind is BATCH, high=kind is HIGH) for client, tokens, kind in requests
    ]
    for _ in range(min(started, len(waiting) - 1)):
        waiting.remove(start(room, held))
    room.heads(held)
    clock.advance(ORDER_LASTS)
    positions = {id(submitted): room.queue_position(submitted.request).ahead for submitted in waiting}
    assert [positions[id(start(room, held))] for _ in waiting] == list(range(len(positions)))


def test_a_request_that_has_started_or_left_has_no_position():
    """At once, also while an older order is still reported."""
    room = WaitingRoom(10, 1_000_000, Clock())
    first, gone, last = (come(room, "a") for _ in range(3))
    assert [room.queue_position(submitted.request).ahead for submitted in (first, gone, last)] == [0, 1, 2]
    start(room, {priority: Counter() for priority in Priority})
    gone.generation.abort()
    room.sweep(0.0)
    assert [room.queue_position(submitted.request) for submitted in (first, gone)] == [None, None]
    room.clear()
    assert room.queue_position(last.request) is None


def test_an_order_is_computed_once_for_all_and_reported_for_a_while():
    """A request that arrives meanwhile has a position once the order is computed again."""
    clock = Clock()
    room = WaitingRoom(10, 1_000_000, clock)
    assert room.queue_position(come(room, "a").request).ahead == 0
    late = come(room, "b")
    assert room.queue_position(late.request) is None
    clock.advance(ORDER_LASTS)
    assert room.queue_position(late.request).ahead == 1


def test_the_seconds_are_the_measured_rate_for_all_in_front_and_oneself():
    """Zero until an end was measured; then one interval between ends for each start."""
    clock = Clock()
    room = WaitingRoom(10, 1_000_000, clock)
    held = {priority: Counter() for priority in Priority}
    waiting = [come(room, "a") for _ in range(3)]
    assert room.queue_position(waiting[2].request) == QueuePosition(2, 0.0)
    start(room, held)
    clock.advance(4)
    room.release("a")
    assert room.queue_position(waiting[2].request) == QueuePosition(1, pytest.approx(8.0))
