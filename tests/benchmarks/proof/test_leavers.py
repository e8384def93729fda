"""A client can only leave what is in flight."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks.proof import leavers
from benchmarks.proof.report import Report
from tests.fakes import Clock

LOOK = 0.25  # seconds that a look takes, by the clock


class Idle:
    """A service on a real socket with these numbers of requests in flight, one a look, and 0 after them."""

    def __init__(self, server: socket.socket, looks: list[int], clock: Clock) -> None:
        self.port = server.getsockname()[1]
        self._looks, self._clock, self._steps = looks, clock, 0

    @property
    def in_flight(self) -> int:
        self._clock.advance(LOOK)
        return self._looks.pop(0) if self._looks else 0

    def total(self, name: str) -> float:
        self._steps += 5
        return self._steps


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leavers, "time", SimpleNamespace(perf_counter=clock, sleep=clock.advance))
    return clock


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.mark.parametrize("looks", [[], [1]])
def test_an_answer_that_is_over_is_not_left(server: socket.socket, looks: list[int], clock: Clock) -> None:
    """It never began, or ended before its client did."""
    assert leavers._end_of_one(Idle(server, looks, clock), 1, streaming=False) is None


def test_an_answer_in_flight_is_left(server: socket.socket, clock: Clock) -> None:
    """The time runs from leaving until nothing is in flight any more; a step has its share of the time before."""
    found = leavers._end_of_one(Idle(server, [1, 1, 1, 1], clock), 1, streaming=True)
    assert found == pytest.approx((3 * LOOK, 0.1 / 5))


def test_an_image_that_was_never_prepared_is_not_left(server: socket.socket, clock: Clock) -> None:
    """As where it was refused."""
    assert leavers._end_of_image(Idle(server, [], clock), 1) is None


def test_clients_with_nothing_to_leave_break_the_promise(
    server: socket.socket, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted, and the figure is missing."""
    monkeypatch.setattr(leavers, "WATCHED", 1)
    report = Report("leavers", "")
    leavers._check_last_steps(report, Idle(server, [], clock))
    assert (report.tried, report.lost) == (3, 3)
    assert [finding.measured for finding in report.findings] == [None, None, None]
