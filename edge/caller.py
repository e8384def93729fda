"""The caller of a request: its address, as rate limits use it, and whether it is local or the administrator."""

from __future__ import annotations

import functools
import hmac
import ipaddress
import logging
import re

from flask import Request

log = logging.getLogger("avito_ai.access")

# Of a proxy's headers, in the names of an environment, one after another; no name has a space.
FORWARDED = re.compile(r"(?:^| )HTTP_(?:FORWARDED|X_REAL_IP|X_FORWARDED_)")
LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}
# RFC 9110, sections 4.2 and 7.2: a name or an address, and nothing before it; a list of several hosts is none.
HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
# RFC 6454, section 7.1.
ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>.+)", re.ASCII)
DEFAULT_PORTS = {"http": "80", "https": "443"}
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
    return FORWARDED.search(" ".join(request.environ)) is not None


def client_address(request: Request, trusted_proxies: int) -> str:
    """Return the normalised address of the client, "unknown" if the socket has none.

    Each trusted proxy appends its peer's address to X-Forwarded-For, so the client's is the `trusted_proxies`-th entry
    from the right; entries to the left of it are the client's own claims. If the list is shorter or the entry is not
    an address, the socket's peer counts.
    """
    # Its lines, joined by commas.
    forwarded = request.environ.get("HTTP_X_FORWARDED_FOR", "")
    return address_of([forwarded] if forwarded else [], request.remote_addr or "", trusted_proxies)


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
    """True for a program on this machine: a loopback peer, no proxy's header, no foreign page, a local Host."""
    peer = _normal(request.remote_addr or "")
    if not peer or not ipaddress.ip_address(peer).is_loopback or is_forwarded(request) or _is_of_another_site(request):
        return False
    origin = request.headers.get("Origin")
    return _host(request.headers.get("Host", ""))[0] in LOCAL_NAMES and (
        origin is None or _origin(origin)[0] in LOCAL_NAMES
    )


def _is_of_another_site(request: Request) -> bool:
    """True if a browser says that another site's page sent this, which names no origin where it expects no answer.

    A link that somebody follows is not the page's doing (Fetch Metadata, sections 2.2 and 2.4).
    """
    fields = {name: request.headers.get(f"Sec-Fetch-{name}", "").strip().lower() for name in ("Site", "Mode")}
    followed = fields["Mode"] == "navigate" and request.method in ("GET", "HEAD")
    return fields["Site"] == "cross-site" and not followed


def is_foreign_page(request: Request, trusted_proxies: int) -> bool:
    """True if a browser sent this for a page of another origin. A program, which names no origin, is not a page.

    Browsers name the relation themselves over HTTPS and on localhost (Fetch Metadata, section 2.4); elsewhere the
    origin is compared with the host that was asked for. A proxy may have taken the port from that.
    """
    relation = request.headers.get("Sec-Fetch-Site")
    if relation is not None:
        return relation.strip().lower() not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if origin is None:
        return False
    asked = [request.headers.get("Host", "")]
    if trusted_proxies > 0:
        asked.append(request.headers.get("X-Forwarded-Host", "").rpartition(",")[2].strip())
    name, port = _origin(origin)
    return not name or not any(name == host and ours in ("", port) for host, ours in map(_host, asked))


def came_over_https(request: Request, trusted_proxies: int) -> bool:
    """True if the browser used HTTPS, to this server or to the nearest proxy if proxies are trusted."""
    nearest = request.headers.get("X-Forwarded-Proto", "").rpartition(",")[2].strip()
    return request.is_secure or (trusted_proxies > 0 and nearest.lower() == "https")


def host_name(request: Request) -> str:
    """Return the name or address that the caller asked for, without a port; "" if it is none."""
    return _host(request.headers.get("Host", ""))[0]


def bearer_key(request: Request) -> str | None:
    """Return the key of `Authorization: Bearer <key>`, None if the request carries none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def key_fits(offered: str, admin_key: str | None) -> bool:
    """True for ADMIN_KEY; compared in constant time."""
    return bool(admin_key) and hmac.compare_digest(offered.encode(), str(admin_key).encode())


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


def _host(text: str) -> tuple[str, str]:
    """Return the name in lower case and the port of a Host field, ("", "") if it is not one."""
    match = HOST.fullmatch(text)
    return (match["name"].lower(), match["port"] or "") if match else ("", "")


def _origin(text: str) -> tuple[str, str]:
    """Return the name and the port of an origin, ("", "") for `null` and whatever else has none."""
    match = ORIGIN.fullmatch(text)
    if match is None:
        return "", ""
    name, port = _host(match["host"])
    return name, port or DEFAULT_PORTS[match["scheme"]]
