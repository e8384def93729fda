"""Charging a caller for a request, in the budget that the route's row names."""

from __future__ import annotations

from flask import g

from edge import caller, parts
from edge.rate_limit import OverBudget
from edge.route_table import Row


def charge(cost: int = 1) -> None:
    """Charge the caller for this request; for routes whose row says `cost_in_body`. Raises OverBudget."""
    row: Row | None = g.row
    if row is None or row.budget is None:
        return
    try:
        g.standing = parts.rate_limiter().spend(row.budget.value, caller.budget_key(g.client), cost)
    except OverBudget as refusal:
        g.standing = refusal.standing
        parts.metrics().prometheus.refused(row.budget.value, refusal.window)
        raise
