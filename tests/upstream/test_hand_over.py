"""Who gets on first where a request passes from one thread to another."""

from __future__ import annotations

import threading

import pytest

from tests.timing import PATIENCE
from upstream.generation import UpstreamGeneration


class Awake:
    """The lock that a producer waits for; given_way: how often it has waited."""

    given_way = 0

    def acquire(self, timeout: float) -> bool:
        self.given_way += 1
        return True

    def release(self) -> None:
        """As of a lock."""


def generation_of() -> tuple[UpstreamGeneration, Awake]:
    generation, awake = UpstreamGeneration("r", 1, 1e9, lambda: None, lambda: 0.0), Awake()
    generation._awake = awake  # type: ignore[assignment]
    return generation, awake


def test_a_consumer_that_waits_gets_on_before_its_producer() -> None:
    """Else whatever has come behind the first part would be read before that is sent."""
    generation, awake = generation_of()
    consumer = threading.Thread(target=generation.wait_for_begin)
    consumer.start()
    while not generation._waits:
        assert consumer.is_alive()
    generation.begin()
    consumer.join(PATIENCE)
    assert (awake.given_way, consumer.is_alive()) == (1, False)


def test_a_producer_waits_for_nobody_where_nobody_waits() -> None:
    """A second beginning, behind an attempt that was repeated, waits no more either."""
    generation, awake = generation_of()
    generation.begin()
    generation.wait_for_begin()
    generation.begin()
    assert awake.given_way == 0


def test_a_consumer_that_has_waited_in_vain_may_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what it is given in the end, once there is an answer."""
    monkeypatch.setattr("upstream.generation.COMMIT_AFTER", 0.0)
    generation = UpstreamGeneration("r", 1, 1e9, lambda: None, lambda: 0.0)
    for _ in range(3):
        generation.wait_for_begin()
    generation.begin()
    assert generation.certain
