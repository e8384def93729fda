"""Holds requests within the budgets and limits of their account, which `usage.budgets` counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edge.request_state import request_state
from edge.route_table import Budget
from edge.services import services
from usage.budgets import Reservation
from usage.errors import BudgetExceeded, LimitReached


def check() -> None:
    """Refuse a request to generate whose account has used what it may. Raises BudgetExceeded and LimitReached."""
    state = request_state()
    if state.row is not None and state.row.budget is Budget.GENERATION:
        with _reported():
            services().spending.budgets.check(state.account)


def admit(model: str, context: int, lengths: Sequence[int]) -> Reservation:
    """Admit this request. context: of the model, in tokens; lengths: the bound of each answer's.

    Raises BudgetExceeded and LimitReached. What is returned must be released.
    """
    with _reported():
        sizes = {number: (context, length) for number, length in enumerate(lengths)}
        return services().spending.budgets.admit(request_state().account, model, sizes)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (BudgetExceeded, LimitReached) as refusal:
        request_state().observer.over_limit(refusal.limit)
        raise
