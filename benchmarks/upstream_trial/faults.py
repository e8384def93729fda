"""Checks of what becomes of a client that leaves, and of a server that is killed and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.upstream_trial import client
from benchmarks.upstream_trial.client import Event
from benchmarks.upstream_trial.trial import CHAT, UNSEEN, YES, Check, Trial, require, text_of, told

TYPED = 1.0  # seconds within which a stream whose server was killed ends in its error
AGAIN = 60.0  # seconds within which a server that was started again is asked again
SETTLED = 30.0  # seconds within which a server that was busy is idle
WORKING, LOOKED = 0.5, 0.5  # of a core, over so many seconds
POLL = 0.02


def left(trial: Trial) -> str:
    """The server stops when the client leaves, in half of the time that it would work on, or sooner."""
    asking = _long(trial)
    began = time.monotonic()
    with client.stream(trial.front, CHAT, asking) as stream:
        list(stream)
    alone = time.monotonic() - began
    if (running := trial.served.running) is None:
        return _left_by_time(trial, asking, alone)
    require(_until(lambda: not running(trial.process.address), SETTLED), "it works on after the end")
    began = time.monotonic()
    with client.stream(trial.front, CHAT, asking) as stream:
        _first_text(stream)
        if not running(trial.process.address):
            return UNSEEN  # it is done sooner than it can be looked at
    idle = _until(lambda: not running(trial.process.address), alone / 2 - (time.monotonic() - began))
    require(idle, f"it works on for more than half of the {alone:.1f} s of an answer")
    return YES


def _left_by_time(trial: Trial, asking: dict[str, Any], alone: float) -> str:
    """Judge a server that does not tell what it does by its processor time; one that is never idle cannot be judged."""
    if alone < 6 * LOOKED or _cores(trial) > WORKING:
        return UNSEEN
    with client.stream(trial.front, CHAT, asking) as stream:
        _first_text(stream)
        if _cores(trial) < WORKING:
            return UNSEEN
    time.sleep(LOOKED)
    busy = _cores(trial)
    require(busy < WORKING, f"it takes {busy:.2f} of a core after its client has left")
    return YES


def killed(trial: Trial) -> str:
    """A stream whose server is killed ends in one typed error in time, which the service tells of afterwards."""
    state = trial.state()
    require(state["state"] == "closed", f"before it: {state}")
    before = sum(state["failures"].values())
    with client.stream(trial.front, CHAT, _long(trial)) as stream:
        _first_text(stream)
        trial.process.kill()
        at = time.monotonic()
        rest = list(stream)
    errors = [event for event in rest if told(event.data, "code")]
    codes = [told(event.data, "code") for event in errors]
    require(codes == ["upstream_error"], f"errors {codes}")
    require(errors[0].at - at <= TYPED, f"the error came after {errors[0].at - at:.2f} s")
    state = trial.state()
    require(sum(state["failures"].values()) > before, f"health: {state}")
    answer = client.post(trial.front, CHAT, trial.asked())
    code = told(answer.body, "code")
    require((answer.status, code) in ((502, "upstream_error"), (503, "not_ready")), f"then {answer.status}, {code}")
    return YES


def again(trial: Trial) -> str:
    """A server that is started again is asked again, and its breaker is closed."""
    trial.process.start()
    found = _until(lambda: client.post(trial.front, CHAT, trial.asked()).status == 200, AGAIN)
    require(found, f"not answered within {AGAIN:g} s: {trial.state()}")
    state = trial.state()
    require(state["state"] == "closed", f"health: {state}")
    return YES


def _long(trial: Trial) -> dict[str, Any]:
    fields: dict[str, Any] = {"max_tokens": trial.served.longest}
    return trial.asked(**fields | ({"ignore_eos": True} if "ignore_eos" in trial.served.takes else {}))


def _first_text(stream: client.Stream) -> Event:
    require(stream.status == 200, f"status {stream.status}, {stream.body}")
    event = next((event for event in stream if text_of(event)), None)
    require(event is not None, "a stream without text")
    assert event is not None
    return event


def _cores(trial: Trial) -> float:
    """Return how many cores the server keeps busy, over LOOKED seconds."""
    before, began = trial.process.cpu_seconds(), time.monotonic()
    time.sleep(LOOKED)
    return (trial.process.cpu_seconds() - before) / (time.monotonic() - began)


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Return whether something holds within so many seconds."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(POLL)
    return found


CHECKS = (
    Check("a client that leaves", left),
    Check("killed in a stream: one typed error within 1 s", killed),
    Check("started again: asked again", again),
)
