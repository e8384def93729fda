"""A client can only leave what is in flight."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks.proof import leavers
from benchmarks.proof.report import Report


class Idle(SimpleNamespace):
    """A service on a real socket with these numbers of requests in flight, one a look, and 0 after them."""

    def __init__(self, server: socket.socket, looks: list[int]) -> None:
        super().__init__(port=server.getsockname()[1], _looks=looks)

    @property
    def in_flight(self) -> int:
        return self._looks.pop(0) if self._looks else 0

    def total(self, name: str) -> float:
        return 0.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(leavers, "BEGUN_WITHIN", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.mark.parametrize("looks", [[], [1]])
def test_an_answer_that_is_over_is_not_left(server: socket.socket, looks: list[int]) -> None:
    """It never began, or ended before its client did."""
    assert leavers._end_of_one(Idle(server, looks), 1, streaming=False) is None


def test_an_answer_in_flight_is_left(server: socket.socket) -> None:
    """The time runs until nothing is in flight any more."""
    found = leavers._end_of_one(Idle(server, [1, 1, 1]), 1, streaming=True)
    assert found is not None
    assert found[0] >= 0


def test_an_image_that_was_never_prepared_is_not_left(server: socket.socket) -> None:
    """As where it was refused."""
    assert leavers._end_of_image(Idle(server, []), 1) is None


def test_clients_with_nothing_to_leave_break_the_promise(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted, and the figure is missing."""
    monkeypatch.setattr(leavers, "WATCHED", 1)
    report = Report("leavers", "")
    leavers._check_last_steps(report, Idle(server, []))
    assert (report.tried, report.lost) == (3, 3)
    assert [finding.measured for finding in report.findings] == [None, None, None]
