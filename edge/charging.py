"""Charges a request to the caller's budget that the route's row names.

What a model refuses because it takes no requests at all costs nothing: no client is to blame for a start or a stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from werkzeug.exceptions import HTTPException

from edge.rate_limit import OverBudget
from edge.request_state import request_state
from edge.services import services
from engine.backend import Backend
from engine.errors import NotReady, ServiceError, ValidationError

Requested = TypeVar("Requested")


def charge(cost: int = 1, *, only_look: bool = False) -> None:
    """Charge the caller for this request. Raises OverBudget, and ValidationError where it asks for too many answers.

    only_look: refuse callers whose budget is spent, and charge nothing. What asks for more answers than a limit allows
    at all is charged as one.
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


def charge_unread() -> None:
    """Charge a request before its body is read; where the route does that itself, only look. Raises as `charge_for`."""
    state = request_state()
    row, account = state.row, state.account
    itself, model = (False, None) if row is None else (row.charges_itself, row.model)
    found = model and services().model_names.find(model, account.id, services().models, account.may_use)
    if found and not itself:
        charge_for(*found)
    else:
        charge(only_look=itself)


def charge_for(model: str, backend: Backend, cost: int = 1) -> None:
    """Charge as `charge` does for answers of one model; while that takes no requests, raise NotReady instead."""
    state = request_state()
    refusal = backend.would_refuse(state.account.id)
    if not isinstance(refusal, NotReady):
        charge(cost)
        return
    charge(cost, only_look=True)
    state.observer.validated(model, backend.info.served_id, cost, cost, level=logging.DEBUG)
    raise NotReady(refusal.message, refusal.retry_after)


def charge_if_refused(read: Callable[[], Requested]) -> Requested:
    """Return what `read` returns, for a route that charges itself. A body that it refuses is charged as one answer.

    Also where HTTP has the error, as for a body that is too long once it is unpacked.
    """
    try:
        return read()
    except (ServiceError, HTTPException):
        charge()
        raise
