"""Who calls: the address that budgets are kept for, and whether the caller is this machine or the operator."""

from __future__ import annotations

import functools
import hmac
import ipaddress
import logging
import re
from urllib.parse import urlsplit

from flask import Request

log = logging.getLogger("avito_ai.access")

FORWARDED = ("HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_X_FORWARDED_")
LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
# An address as proxies write it: bare, or with a port; IPv6 in brackets where a port follows.
WITH_PORT = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]+)\](:\d+)?|(?P<v4>\d+\.\d+\.\d+\.\d+):\d+")


class ForwardedWarning:
    """Warns once of forwarded headers where no proxy is trusted: they are ignored then."""

    def __init__(self, trusted_proxies: int) -> None:
        self._due = trusted_proxies == 0

    def check(self, request: Request) -> None:
        """Log the warning if this request is the first that carries such a header."""
        if self._due and is_forwarded(request):
            self._due = False
            log.warning(
                "A request carries a forwarded header, which is ignored: if a proxy stands in front, set "
                "TRUSTED_PROXIES, or all its clients share one rate limit."
            )


def is_forwarded(request: Request) -> bool:
    """True if some proxy, or somebody who plays one, has left a header."""
    return any(name.startswith(FORWARDED) for name in request.environ)


def client_address(request: Request, trusted_proxies: int) -> str:
    """Return the address that this call is charged to, normalised; "unknown" where the socket has none.

    Each trusted proxy appended what it saw to X-Forwarded-For, so the entry of the outermost one is the
    `trusted_proxies`-th from the right; whatever stands left of it is the client's own claim. A shorter list did not
    come through all of them, and a value that is no address tells nothing: then the socket's peer counts.
    """
    hops = [hop.strip() for line in request.headers.getlist("X-Forwarded-For") for hop in line.split(",")]
    claimed = hops[-trusted_proxies] if 0 < trusted_proxies <= len(hops) else ""
    return _normal(claimed) or _normal(request.remote_addr or "") or "unknown"


def budget_key(address: str) -> str:
    """Return whom an address is charged to: an IPv6 client owns a whole /64 and must not choose within it."""
    if ":" not in address:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False))


def is_local(request: Request) -> bool:
    """True for a program on this machine: a loopback peer, no proxy's header, no foreign origin, a local Host."""
    peer = _normal(request.remote_addr or "")
    if not peer or not ipaddress.ip_address(peer).is_loopback or is_forwarded(request):
        return False
    origin = request.headers.get("Origin")
    return _host_name(f"//{request.headers.get('Host', '')}") in LOCAL_NAMES and (
        origin is None or _host_name(origin) in LOCAL_NAMES
    )


def came_over_https(request: Request, trusted_proxies: int) -> bool:
    """True if the browser spoke HTTPS: to us, or to the nearest proxy where we trust one."""
    nearest = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip()
    return request.is_secure or (trusted_proxies > 0 and nearest.lower() == "https")


def is_admin(request: Request, admin_key: str | None) -> bool:
    """True if the request carries `Authorization: Bearer <ADMIN_KEY>`; compared in constant time."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if not admin_key or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(token.strip().encode(), admin_key.encode())


@functools.lru_cache(maxsize=4096)
def _normal(text: str) -> str:
    """Return the address in its one normal form, without port or zone; "" where it is none."""
    if match := WITH_PORT.fullmatch(text):
        text = match["v6"] or match["v4"]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
