"""Passes a request on to another copy of the service, behind nginx with several copies.

nginx does not check a copy's readiness and must not repeat a request that may have started. So its configuration sends
`X-Another-Copy` with every request, and a copy that cannot take one answers with `X-Accel-Redirect`, which nginx
follows for any status: it names the location that asks the other copies. Only trusted proxies may send the header.
"""

from __future__ import annotations

from config import Settings
from edge.route_table import Budget, Row
from engine.errors import NotReady, ServiceError
from models import ModelSet

HEADER = "X-Another-Copy"
NOT_READY = NotReady("This copy of the service is not ready.")
LOCATION = "@another_copy"  # as in deploy/nginx/avito-ai.conf, and in sites installed from it


def can_take(told: bool, settings: Settings) -> bool:
    """True if a trusted proxy has other copies to ask. told: whether the request has HEADER."""
    return settings.server.trusted_proxies > 0 and told


def hand_over_early(told: bool, settings: Settings, models: ModelSet, row: Row) -> None:
    """Refuse a generation before it is charged or read, if this copy is not ready and another one may be.

    Raises NotReady.
    """
    if row.budget is Budget.GENERATION and can_take(told, settings) and not models.ready:
        raise NotReady(NOT_READY.message)


def headers_of(error: ServiceError, told: bool, settings: Settings) -> dict[str, str]:
    """Return the header that makes nginx ask another copy; a request that ends with NotReady was never started."""
    return {"X-Accel-Redirect": LOCATION} if isinstance(error, NotReady) and can_take(told, settings) else {}
