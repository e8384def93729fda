"""Charges a request to the caller's budget that the route's row names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge.rate_limit import OverBudget
from edge.request_state import request_state
from edge.services import services
from engine.errors import ServiceError, ValidationError

Requested = TypeVar("Requested")


def charge(cost: int = 1, *, only_look: bool = False) -> None:
    """Charge the caller for this request. Raises OverBudget, and ValidationError where it asks for too many answers.

    A route with `cost_in_body` calls this itself after reading the body. Before that, middleware calls it with
    `only_look`, which refuses callers whose budget is spent and charges nothing. What asks for more answers than
    a limit allows at all is charged as one.
    """
    state = request_state()
    row = state.row
    if row is None or row.budget is None:
        return
    try:
        limiter, account = services().rate_limiter, state.account
        try:
            state.quota = limiter.spend(row.budget.value, account.id, cost, only_look=only_look, limits=account.limits)
        except ValidationError:
            state.quota = limiter.spend(row.budget.value, account.id, limits=account.limits)
            raise
    except OverBudget as refusal:
        state.quota = refusal.quota
        state.observer.over_budget(refusal.budget, refusal.window)
        raise


def charge_if_refused(read: Callable[[], Requested]) -> Requested:
    """Return what `read` returns, for a route with `cost_in_body`. A body that it refuses is charged as one answer."""
    try:
        return read()
    except ServiceError:
        charge()
        raise
