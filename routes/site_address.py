"""The address at which a client has found the service, for what it copies into its own programs."""

from __future__ import annotations

import re

from flask import request

from edge.caller import came_over_https
from edge.services import services

ADDRESS = "http://127.0.0.1:8085"  # of a service that does not know its own
SHOWABLE = re.compile(r"https?://[A-Za-z0-9._:\[\]-]{1,300}")  # an address that can stand in a program


def site_address() -> str:
    """Return the address that the client has asked at, as it wrote it; ADDRESS for one that none can be.

    The framework would decode each label of the name, which takes long, and fails for some.
    """
    scheme = "https" if came_over_https(request, services().settings.server.trusted_proxies) else "http"
    address = f"{scheme}://{request.environ.get('HTTP_HOST', '')}"
    return address if SHOWABLE.fullmatch(address) else ADDRESS
