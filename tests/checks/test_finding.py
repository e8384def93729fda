"""Running checks side by side, and what is told of a failure."""

from __future__ import annotations

import ssl
import threading

from checks.finding import Finding, State, reason_of, run, worst

OK = Finding(State.OK, "It works.")


def test_checks_run_side_by_side_and_keep_their_names() -> None:
    """Each waits for the other, which one after the other would never end."""
    both = threading.Barrier(2, timeout=60)

    def wait() -> Finding:
        both.wait()
        return OK

    assert run({"a": wait, "b": wait}) == {"a": OK, "b": OK}
    assert run({}) == {}


def test_a_check_that_raises_has_failed() -> None:
    """It takes no other check down, and its text, which may have a secret, is not told."""

    def broken() -> Finding:
        raise ValueError("redis://:secret@host")

    found = run({"a": broken, "b": lambda: OK})
    assert found["a"].state is State.FAILED
    assert "secret" not in found["a"].detail
    assert found["b"] is OK


def test_the_worst_state_counts() -> None:
    """What is off is no reason for anything."""
    off, warning = Finding(State.OFF, ""), Finding(State.WARNING, "")
    assert worst([off, OK, warning]) is State.WARNING
    assert worst([off, OK]) is State.OK
    assert worst([]) is State.OFF


def test_the_reason_is_the_systems_own() -> None:
    """What the operating system or TLS said, else the kind of the error."""
    refused = ConnectionRefusedError(111, "Connection refused")
    wrapped = RuntimeError("secret")
    wrapped.__cause__ = refused
    assert reason_of(wrapped) == "Connection refused"
    assert reason_of(RuntimeError("secret")) == "RuntimeError"
    assert "TLS" in reason_of(ssl.SSLError(1, "no"))
