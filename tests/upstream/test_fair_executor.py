"""Whose turn it is: one client's jobs keep nobody else's waiting."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from engine.errors import Overloaded
from upstream.fair_executor import MOST_WAITING, FairExecutor

PATIENCE = 60.0


def test_a_job_of_another_client_does_not_wait_for_those_of_one() -> None:
    """Though they came first, and the first of them does not end."""
    executor, gate = FairExecutor(2, "test"), threading.Event()
    many = [executor.submit("many", lambda: str(gate.wait(PATIENCE))) for _ in range(5)]
    assert [executor.submit("few", lambda: "done").result(PATIENCE) for _ in range(3)] == ["done"] * 3
    assert not any(one.done() for one in many)
    gate.set()
    assert [one.result(PATIENCE) for one in many] == ["True"] * 5


def test_clients_take_turns() -> None:
    """In the order in which they came, one job each."""
    executor, gate, done = FairExecutor(1, "test"), threading.Event(), list[str]()

    def note(client: str) -> str:
        done.append(client)
        return client

    first = executor.submit("first", lambda: str(gate.wait(PATIENCE)))
    jobs: list[Future[str]] = [
        executor.submit(client, lambda client=client: note(client))  # type: ignore[misc]
        for client in ("a", "a", "a", "b", "b", "c")
    ]
    gate.set()
    assert [one.result(PATIENCE) for one in (first, *jobs)] == ["True", "a", "a", "a", "b", "b", "c"]
    assert done == ["a", "b", "c", "a", "b", "a"]


def test_one_client_has_so_many_jobs_waiting_and_no_more() -> None:
    """What was given up counts no longer, and is not done."""
    executor, gate, done = FairExecutor(1, "test"), threading.Event(), list[str]()
    executor.submit("many", lambda: str(gate.wait(PATIENCE)))
    waiting = [executor.submit("many", lambda: str(done.append("x"))) for _ in range(MOST_WAITING)]
    with pytest.raises(Overloaded):
        executor.submit("many", str)
    assert waiting[0].cancel()
    last = executor.submit("many", lambda: "last")
    gate.set()
    assert last.result(PATIENCE) == "last"
    assert len(done) == MOST_WAITING - 1


def test_a_job_that_fails_ends_its_turn() -> None:
    """The next one has it; the error is the caller's."""
    executor = FairExecutor(1, "test")
    failed = executor.submit("a", lambda: str(1 // 0))
    assert executor.submit("a", lambda: "next").result(PATIENCE) == "next"
    with pytest.raises(ZeroDivisionError):
        failed.result(PATIENCE)
