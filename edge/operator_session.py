"""The operator's session: a signed cookie, valid for twelve hours, that ADMIN_KEY is exchanged for.

The cookie holds the session's id and no part of the key. Its signature's key is derived from ADMIN_KEY, so copies of
the service accept each other's cookies, a restart ends no session, and a new key ends all of them. Signing out ends the
session in the process that it reaches: other copies, and this one after a restart, rely on the deleted cookie.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from flask import Request, Response
from itsdangerous import BadSignature, TimestampSigner, URLSafeTimedSerializer

COOKIE = "avito_ai_operator"
SECONDS = 12 * 3600
PATH = "/status"
MAX_ENDED = 4096  # only holders of ADMIN_KEY can end sessions


class EndedSessions:
    """The sessions that were signed out and have not expired since. Thread-safe.

    At most `capacity` are kept; one that is dropped before its time takes all sessions that began before it along.
    clock: seconds since the epoch.
    """

    def __init__(self, capacity: int = MAX_ENDED, clock: Callable[[], float] = time.time) -> None:
        self._capacity, self._clock = capacity, clock
        self._lock = threading.Lock()  # guards the fields below
        self._ended: OrderedDict[str, float] = OrderedDict()  # when each began, in the order of their ends
        self._none_before = 0.0

    def __len__(self) -> int:
        return len(self._ended)

    def end(self, session: str, began: float) -> None:
        """End a session, for all copies of its cookie."""
        with self._lock:
            expired = self._clock() - SECONDS
            for other in [other for other, since in self._ended.items() if since < expired]:
                del self._ended[other]
            self._ended[session] = began
            while len(self._ended) > self._capacity:
                _, dropped = self._ended.popitem(last=False)
                self._none_before = max(self._none_before, dropped + 1)  # cookies have whole seconds

    def has(self, session: str, began: float) -> bool:
        """True if this session was signed out."""
        with self._lock:
            return began < self._none_before or session in self._ended


def is_signed_in(request: Request, admin_key: str | None, ended: EndedSessions) -> bool:
    """True if the request has a cookie that this key signed within the last twelve hours, and that is not ended."""
    session = _session(request, admin_key)
    return session is not None and not ended.has(*session)


def sign_in(response: Response, admin_key: str, *, secure: bool) -> None:
    """Begin a session and set its cookie. secure: the request came over HTTPS."""
    response.set_cookie(
        COOKIE,
        cookie_serializer(admin_key).dumps(secrets.token_urlsafe(16)),
        max_age=SECONDS,
        path=PATH,
        secure=secure,
        httponly=True,
        samesite="Strict",
    )


def sign_out(request: Request, response: Response, admin_key: str | None, ended: EndedSessions) -> None:
    """End the request's session and delete its cookie."""
    session = _session(request, admin_key)
    if session is not None:
        ended.end(*session)
    response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="Strict")


def _session(request: Request, admin_key: str | None) -> tuple[str, float] | None:
    """Return the id of the request's session and when it began, None without a valid cookie."""
    cookie = request.cookies.get(COOKIE)
    if not cookie or admin_key is None:
        return None
    try:
        session, began = cookie_serializer(admin_key).loads(cookie, max_age=SECONDS, return_timestamp=True)
    except BadSignature:
        return None
    return str(session), began.timestamp()


def cookie_serializer(
    secret: str, signer: type[TimestampSigner] = TimestampSigner, salt: str = "operator's page"
) -> URLSafeTimedSerializer:
    """Return the serializer of a session's cookie. signer: adds the timestamp; salt: of each kind of session."""
    return URLSafeTimedSerializer(
        secret,
        salt=salt,
        signer=signer,
        signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
    )
