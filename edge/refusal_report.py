"""What is noted of a request that is refused without the framework: the same that the hooks note of any other."""

from __future__ import annotations

from dataclasses import dataclass

from edge import errors
from edge.rate_limit import OverBudget
from edge.route_table import Budget, Row
from engine.errors import ServiceError
from telemetry.logs import request_id_var
from telemetry.metrics import Metrics
from telemetry.observer import RequestObserver
from telemetry.tracing import Trace
from usage.errors import BudgetExceeded, LimitReached

_UNTRACED = Trace()


@dataclass(frozen=True, slots=True)
class RefusedRequest:
    """A request that is refused.

    began: when all of it had arrived, on the monotonic clock; rule, row: of its route, None where none matched; model:
    the one that it is for, None where that is unknown or it generates nothing; address: of its client; account: whom it
    is charged to, by its id; key_name: of its key or token, "" without one.
    """

    request_id: str
    began: float
    method: str
    path: str
    rule: str | None
    row: Row | None
    model: str | None
    address: str
    account: str
    key_name: str


def report(metrics: Metrics, refused: RefusedRequest, error: ServiceError, status: int, level: int) -> float:
    """Count a refusal with its status, write its access line at this level, and return its seconds."""
    row, account, key_name = refused.row, refused.account, refused.key_name
    protocol = None if row is None else row.protocol
    observer = RequestObserver(metrics, _UNTRACED, refused.request_id, refused.began, refused.model, protocol)
    if isinstance(error, OverBudget):
        observer.over_budget(error.budget, error.window)
    if isinstance(error, BudgetExceeded | LimitReached):
        observer.over_limit(error.limit)
    observer.failed(errors.meaning_of(error).code, status, error.message)
    if row is not None and row.budget is Budget.GENERATION:
        metrics.busiest.count(account, key_name or account, failed=True)
    token = request_id_var.set(refused.request_id)
    try:
        return observer.responded(
            refused.method,
            refused.rule,
            refused.path,
            refused.address,
            status,
            account=key_name,
            streamed=False,
            level=level,
        )
    finally:
        request_id_var.reset(token)
