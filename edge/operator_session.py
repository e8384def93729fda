"""The operator's session: a signed cookie, valid for twelve hours, that ADMIN_KEY is exchanged for.

The cookie holds no part of the key. Its signature's key is derived from ADMIN_KEY, so copies of the service accept each
other's cookies, a restart ends no session, and a new key ends all of them. Sign-in attempts are limited per address.
"""

from __future__ import annotations

import hashlib
import hmac

from flask import Request, Response
from itsdangerous import BadSignature, TimestampSigner, URLSafeTimedSerializer

from edge.rate_limit import RateLimiter

COOKIE = "avito_ai_operator"
SECONDS = 12 * 3600
PATH = "/status"
TRIES_PER_MINUTE, TRIES_PER_HOUR = 5, 20
OPERATOR = "operator"


def sign_in_tries() -> RateLimiter:
    """Return the rate limiter of sign-in attempts."""
    return RateLimiter(TRIES_PER_MINUTE, TRIES_PER_HOUR)


def key_fits(offered: str, admin_key: str | None) -> bool:
    """True for ADMIN_KEY; compared in constant time."""
    return admin_key is not None and hmac.compare_digest(offered.encode(), admin_key.encode())


def is_signed_in(request: Request, admin_key: str | None) -> bool:
    """True if the request has a cookie that this key signed within the last twelve hours."""
    cookie = request.cookies.get(COOKIE)
    if not cookie or admin_key is None:
        return False
    try:
        return bool(cookie_serializer(admin_key).loads(cookie, max_age=SECONDS) == OPERATOR)
    except BadSignature:
        return False


def sign_in(response: Response, admin_key: str, *, secure: bool) -> None:
    """Set the cookie. secure: the request came over HTTPS."""
    response.set_cookie(
        COOKIE,
        cookie_serializer(admin_key).dumps(OPERATOR),
        max_age=SECONDS,
        path=PATH,
        secure=secure,
        httponly=True,
        samesite="Strict",
    )


def sign_out(response: Response) -> None:
    """Delete the cookie."""
    response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="Strict")


def cookie_serializer(admin_key: str, signer: type[TimestampSigner] = TimestampSigner) -> URLSafeTimedSerializer:
    """Return the serializer of the cookie. signer: adds the timestamp."""
    return URLSafeTimedSerializer(
        admin_key,
        salt="operator's page",
        signer=signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
