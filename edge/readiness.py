"""The state of the service as a whole, from the states of its models."""

from __future__ import annotations

from collections.abc import Mapping

from engine.types import BackendState, Status, is_further

WORST_FIRST = (Status.DEAD, Status.STALLED, Status.DRAINING, Status.LOADING, Status.READY)


def overall(states: Mapping[str, BackendState]) -> Status:
    """Return the worst state that any model is in; that of a further version decides nothing."""
    found = {state.status for name, state in states.items() if not is_further(name)}
    return next(status for status in WORST_FIRST if status in found)
