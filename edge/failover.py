"""Passes a request on to another copy of the service, behind nginx with several copies.

nginx does not check a copy's readiness and must not repeat a request that may have started. So its configuration sends
`X-Another-Copy` with every request, and a copy that cannot take one answers with `X-Accel-Redirect`, which nginx
follows for any status: it names the location that asks the other copies. Only trusted proxies may send the header.
"""

from __future__ import annotations

from flask import Request

from config import Settings
from edge.route_table import Budget, Row
from engine.errors import NotReady, ServiceError
from models import ModelSet

LOCATION = "@another_copy"  # as in deploy/nginx/avito-ai.conf, and in sites installed from it


def can_take(request: Request, settings: Settings) -> bool:
    """True if a trusted proxy has other copies to ask."""
    return settings.server.trusted_proxies > 0 and "X-Another-Copy" in request.headers


def hand_over_early(request: Request, settings: Settings, models: ModelSet, row: Row) -> None:
    """Refuse a generation before it is charged or read, if this copy is not ready and another one may be.

    Raises NotReady.
    """
    if row.budget is Budget.GENERATION and can_take(request, settings) and not models.ready:
        raise NotReady("This copy of the service is not ready.")


def headers_of(error: ServiceError, request: Request, settings: Settings) -> dict[str, str]:
    """Return the header that makes nginx ask another copy; a request that ends with NotReady was never started."""
    return {"X-Accel-Redirect": LOCATION} if isinstance(error, NotReady) and can_take(request, settings) else {}
