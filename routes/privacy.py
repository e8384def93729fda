"""Who can read what a visitor of the page sends, beside the model: the page tells its visitors so."""

from __future__ import annotations

from dataclasses import dataclass

from flask import request

from edge import caller
from routes.services import services


@dataclass(frozen=True, slots=True)
class Readers:
    """elsewhere: the page's models that another server answers for; in_the_clear: the network can read along."""

    elsewhere: tuple[str, ...]
    in_the_clear: bool


def readers() -> Readers:
    """Return what holds for this request."""
    upstreams = services().models.upstreams
    https = caller.came_over_https(request, services().settings.server.trusted_proxies)
    return Readers(
        elsewhere=tuple(name.capitalize() for name in ("avibe", "avision") if name in upstreams),
        in_the_clear=not https and not caller.is_local(request),
    )
