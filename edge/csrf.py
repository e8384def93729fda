"""Tokens in the forms of pages, without which a browser's own credentials (a session, this machine) do nothing.

A token is bound to a random cookie of the browser and to its sessions: it is an HMAC under both, with a nonce, so that
no two forms hold the same text. A page of another site can send a form, but can read neither (OWASP: signed double
submit). A program names its key in each request and needs no token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from flask import Request, Response, g, request

from edge import caller, operator_session
from edge.errors import Forbidden
from engine.errors import Message

COOKIE = "avito_ai_form"
FIELD, HEADER = "csrf_token", "X-CSRF-Token"
SESSION_COOKIES = ("avito_ai_client", operator_session.COOKIE)
STALE = Message("csrf", "This page is too old, or cookies are turned off. Open it again and send the form once more.")
_SECRET = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_SAFE = ("GET", "HEAD", "OPTIONS")


def token() -> str:
    """Return a token for the page that is rendered now; what it is bound to is set with the response."""
    nonce = secrets.token_urlsafe(9)
    return f"{nonce}.{_mac(_secret(make=True), nonce)}"


def follow_session(cookie: str) -> None:
    """Bind the tokens of this response to a client's session that begins with it."""
    g.csrf_session = cookie


def check(offered: str) -> None:
    """Raise Forbidden unless this is a token of a page that this browser was shown, where one is needed."""
    if request.method not in _SAFE and _from_browser(request) and not _fits(offered):
        raise Forbidden(STALE)


def set_cookie(response: Response, trusted_proxies: int) -> None:
    """Set the cookie that tokens are bound to, where this response has the first of them."""
    if "csrf_secret" in g:
        secure = caller.came_over_https(request, trusted_proxies)
        # Lax as the session's: a link from another site would else bring the page without it, and get another one.
        response.set_cookie(COOKIE, g.csrf_secret, secure=secure, httponly=True, samesite="Lax")


def _from_browser(request: Request) -> bool:
    """True for what a browser sends by itself; each names the page that sends a form, or has a session's cookie."""
    named = any(name in request.headers for name in ("Origin", "Sec-Fetch-Site"))
    return named or any(name in request.cookies for name in SESSION_COOKIES)


def _fits(offered: str) -> bool:
    nonce, _, mac = offered.partition(".")
    secret = _secret(make=False)
    return bool(secret) and hmac.compare_digest(mac.encode(), _mac(secret, nonce).encode())


def _secret(make: bool) -> str:
    """Return the secret of the browser's cookie, "" if it has none and none is made."""
    found = request.cookies.get(COOKIE, "")
    if _SECRET.fullmatch(found):
        return found
    if make and "csrf_secret" not in g:
        g.csrf_secret = secrets.token_urlsafe(16)
    secret: str = g.get("csrf_secret", "")
    return secret


def _mac(secret: str, nonce: str) -> str:
    client = g.get("csrf_session", request.cookies.get(SESSION_COOKIES[0], ""))
    bound = "\0".join((nonce, client, request.cookies.get(SESSION_COOKIES[1], "")))
    return hmac.new(secret.encode(), bound.encode(), hashlib.sha256).hexdigest()
