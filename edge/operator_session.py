"""The operator's session: a signed cookie for twelve hours, given for ADMIN_KEY, of which it holds nothing.

The signature's key is derived from ADMIN_KEY, so that copies of the service know each other's cookies, a restart ends
no session and a new key ends all of them. Tries are limited for each address, right or wrong.
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
    """Return the budgets of tries, kept apart from every other."""
    return RateLimiter(TRIES_PER_MINUTE, TRIES_PER_HOUR)


def key_fits(offered: str, admin_key: str | None) -> bool:
    """True for the right key; compared in constant time."""
    return admin_key is not None and hmac.compare_digest(offered.encode(), admin_key.encode())


def is_signed_in(request: Request, admin_key: str | None) -> bool:
    """True if the request carries a cookie that this key signed within the last twelve hours."""
    cookie = request.cookies.get(COOKIE)
    if not cookie or admin_key is None:
        return False
    try:
        return bool(cookie_serializer(admin_key).loads(cookie, max_age=SECONDS) == OPERATOR)
    except BadSignature:
        return False


def sign_in(response: Response, admin_key: str, *, secure: bool) -> None:
    """Give the browser its cookie. secure: the operator came over HTTPS."""
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
    """Take the cookie away."""
    response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="Strict")


def cookie_serializer(admin_key: str, signer: type[TimestampSigner] = TimestampSigner) -> URLSafeTimedSerializer:
    """Return what writes and reads the cookie. signer: stamps the time."""
    return URLSafeTimedSerializer(
        admin_key,
        salt="operator's page",
        signer=signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
