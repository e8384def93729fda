"""What a check found, and running several of them at once, each bounded by its own time-outs."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """OFF: nothing of the kind is set or here; WARNING: works, and an operator should look."""

    OK = "ok"
    OFF = "off"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of one dependency, and a sentence about it that has no secret."""

    state: State
    detail: str


Check = Callable[[], Finding]
WORST_FIRST = (State.FAILED, State.WARNING, State.OK, State.OFF)


def run(checks: Mapping[str, Check]) -> dict[str, Finding]:
    """Return what the checks found, by their names; one that raises has failed."""
    if not checks:
        return {}
    with ThreadPoolExecutor(len(checks), thread_name_prefix="check") as pool:
        return dict(zip(checks, pool.map(_found, checks.values()), strict=True))


def worst(findings: Iterable[Finding]) -> State:
    """Return the worst state of all, OFF if there is none."""
    states = {finding.state for finding in findings}
    return next((state for state in WORST_FIRST if state in states), State.OFF)


def reason_of(error: BaseException) -> str:
    """Return why a connection failed, without the text of a library, which may have a URL with its password."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed ({getattr(cause, 'reason', None) or type(cause).__name__})"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _found(check: Check) -> Finding:
    try:
        return check()
    except Exception as error:  # a check of what may be broken in any way
        return Finding(State.FAILED, f"The check itself failed: {reason_of(error)}.")
