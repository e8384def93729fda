"""Handing a request over to another copy of the service, where nginx stands in front of several.

nginx does not ask a copy whether it is ready and must not repeat a request that may have begun. So its site sends
`X-Another-Copy` with every request, and a copy that cannot take one names the location in which nginx asks the others:
nginx follows `X-Accel-Redirect` of an answer of any status. From anybody but a trusted proxy the header is ignored.
"""

from __future__ import annotations

from flask import Request

from config import Settings
from edge.route_table import Budget, Row
from engine.errors import NotReady, ServiceError
from models import ModelSet

LOCATION = "@failover"


def can_take(request: Request, settings: Settings) -> bool:
    """True if a proxy says that it knows other copies."""
    return settings.server.trusted_proxies > 0 and "X-Another-Copy" in request.headers


def hand_over_early(request: Request, settings: Settings, models: ModelSet, row: Row) -> None:
    """Refuse a generation before it is charged or read, where another copy can take it and this one cannot.

    Raises NotReady.
    """
    if row.budget is Budget.GENERATION and can_take(request, settings) and not models.ready:
        raise NotReady("This copy of the service is not ready.")


def headers_of(error: ServiceError, request: Request, settings: Settings) -> dict[str, str]:
    """Return the header that has nginx ask another copy; nothing was begun for a request that ends with NotReady."""
    return {"X-Accel-Redirect": LOCATION} if isinstance(error, NotReady) and can_take(request, settings) else {}
