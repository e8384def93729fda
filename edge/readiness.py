"""The state of the service as a whole, from the states of its models."""

from __future__ import annotations

from collections.abc import Mapping

from engine.types import BackendState, Status

WORST_FIRST = (Status.DEAD, Status.STALLED, Status.DRAINING, Status.LOADING, Status.READY)


def overall(states: Mapping[str, BackendState]) -> Status:
    """Return the worst state that any model is in."""
    return next(status for status in WORST_FIRST if any(state.status is status for state in states.values()))
