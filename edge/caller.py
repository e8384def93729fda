"""The caller of a request: its address, as rate limits use it, and whether it is local or the administrator."""

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
    """Logs once that forwarded headers are ignored, which they are while no proxy is trusted."""

    def __init__(self, trusted_proxies: int) -> None:
        self._due = trusted_proxies == 0

    def check(self, request: Request) -> None:
        """Log the warning if this is the first request with such a header."""
        if self._due and is_forwarded(request):
            self._due = False
            log.warning(
                "A request carries a forwarded header, which is ignored: if a proxy stands in front, set "
                "TRUSTED_PROXIES, or all its clients share one rate limit."
            )


def is_forwarded(request: Request) -> bool:
    """True if the request has a proxy's header, from a proxy or made up by the client."""
    return any(name.startswith(FORWARDED) for name in request.environ)


def client_address(request: Request, trusted_proxies: int) -> str:
    """Return the normalised address of the client, "unknown" if the socket has none.

    Each trusted proxy appends its peer's address to X-Forwarded-For, so the client's is the `trusted_proxies`-th entry
    from the right; entries to the left of it are the client's own claims. If the list is shorter or the entry is not
    an address, the socket's peer counts.
    """
    return address_of(request.headers.getlist("X-Forwarded-For"), request.remote_addr or "", trusted_proxies)


def address_of(forwarded: list[str], peer: str, trusted_proxies: int) -> str:
    """Return the same from the values of X-Forwarded-For and the address of the socket's peer."""
    hops = [hop.strip() for line in forwarded for hop in line.split(",")]
    claimed = hops[-trusted_proxies] if 0 < trusted_proxies <= len(hops) else ""
    return _normal(claimed) or _normal(peer) or "unknown"


def budget_key(address: str) -> str:
    """Return the key that an address is charged under: an IPv6 client owns a /64, so all of it shares one budget."""
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
    """True if the browser used HTTPS, to this server or to the nearest proxy if proxies are trusted."""
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
    """Return the address in its canonical form, without port or zone; "" if it is not an address."""
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
