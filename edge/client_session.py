"""A client's session on the page: a signed cookie, valid for thirty days, that a key or token is exchanged for once.

For a key, the cookie has its id and no part of its secret. Its signature's key is derived from the digest of the secret
and from ADMIN_KEY. So there is no further secret to make, keep and share: every copy of the service accepts the cookie,
a restart ends no session, and another secret of the key ends all of them; who reads the database alone can sign none
where ADMIN_KEY is set. That the key still counts is looked up with each request. A token of the operator's issuer is
its own proof and ends by itself: the cookie is the token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from flask import Request, Response
from itsdangerous import BadSignature, URLSafeTimedSerializer

from edge.operator_session import cookie_serializer
from keys.record import Key
from keys.secret import ID
from keys.store import KeyStore

COOKIE = "avito_ai_client"
SECONDS = 30 * 24 * 3600
MAX_COOKIE = 3800  # bytes; browsers keep 4096 with the attributes


class ClientSessions:
    """Makes and reads the cookies. keys: None where AUTH asks for none."""

    def __init__(self, keys: KeyStore | None, admin_key: str | None) -> None:
        self._keys, self._admin_key = keys, admin_key or ""

    def use_admin_key(self, admin_key: str | None) -> None:
        """Sign with another ADMIN_KEY, which ends all sessions."""
        self._admin_key = admin_key or ""

    def credential_of(self, request: Request) -> str | None:
        """Return the id of the key, or the token, that the browser has signed in with; None without a session."""
        cookie = request.cookies.get(COOKIE, "")
        key_id, dot, signed = cookie.partition(".")
        if not ID.fullmatch(key_id):
            return cookie if cookie.count(".") == 2 else None
        key = self._keys.by_id(key_id) if self._keys is not None and dot else None
        try:
            return None if key is None else str(self._serializer(key).loads(signed, max_age=SECONDS)[0])
        except BadSignature:
            return None

    def cookie_for(self, credential: str, key_id: str | None) -> str | None:
        """Return the cookie of a session that begins, None where it cannot be kept. key_id: None for a token."""
        if key_id is None:
            return credential if len(credential) <= MAX_COOKIE else None
        key = None if self._keys is None else self._keys.by_id(key_id)
        if key is None:
            return None
        return f"{key_id}.{self._serializer(key).dumps([key_id, secrets.token_urlsafe(12)])}"

    def _serializer(self, key: Key) -> URLSafeTimedSerializer:
        secret = hmac.new(self._admin_key.encode(), key.hash.encode(), hashlib.sha256).hexdigest()
        return cookie_serializer(secret, salt="client's page")


def begin(response: Response, cookie: str, *, secure: bool) -> None:
    """Set the cookie of a session. secure: the request came over HTTPS."""
    response.set_cookie(COOKIE, cookie, max_age=SECONDS, path="/", secure=secure, httponly=True, samesite="Lax")


def end(response: Response) -> None:
    """Delete the cookie of a session."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="Lax")
