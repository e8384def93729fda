"""Who sends a request: the account of its client key or token, where AUTH asks for one.

The hooks and the gate in front of them judge by the same `Authenticator`. Nothing here waits: keys are looked up in a
snapshot, and a token is verified with keys that are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import Request

from edge.errors import Forbidden, Unauthorized
from edge.rate_limit import RateLimiter
from engine.errors import Message
from keys.account import Account
from keys.secret import ID
from keys.store import KeyStore
from keys.tokens import TokenRefused, TokenVerifier

TRIES_PER_MINUTE, TRIES_PER_HOUR = 20, 100
BUDGET = "client-key"

MISSING = Message("key_missing", "Send a key: as Authorization: Bearer KEY, or as x-api-key: KEY.")
WRONG = Message("key_wrong", "This key is not valid.")
DISABLED = Message("key_disabled", "This key is disabled.")
EXPIRED = Message("key_expired", "This key has expired.")


class CredentialRefused(Unauthorized):
    """A key or token is missing, wrong, disabled or expired; `reason` is one of these words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Authenticator:
    """Finds the account of a request's key or token. Thread-safe.

    keys, tokens: None where AUTH does not name them; without both, every caller is charged under its address.
    session: returns the id of the key, or the token, that a browser has signed in with, None without a valid session.
    refused: called with the reason of every refusal.
    """

    def __init__(
        self,
        keys: KeyStore | None = None,
        tokens: TokenVerifier | None = None,
        session: Callable[[Request], str | None] = lambda request: None,
        refused: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._keys, self._tokens = keys, tokens
        self._session, self._refused = session, refused
        self._tries = RateLimiter(TRIES_PER_MINUTE, TRIES_PER_HOUR)

    @property
    def demanded(self) -> bool:
        """True if clients need a key or a token."""
        return self._keys is not None or self._tokens is not None

    def account_of(self, request: Request, client: str) -> Account | None:
        """Return the account of a request, None where none is needed. client: whose budget a wrong key is charged to.

        Raises CredentialRefused, and OverBudget where a client has offered too many wrong keys.
        """
        if not self.demanded:
            return None
        headers = request.headers
        offered = credential(headers.get("Authorization", ""), headers.get("X-Api-Key", ""))
        if not offered and (signed_in := self._session(request)) is not None:
            return self.of_key_id(signed_in) if ID.fullmatch(signed_in) else self.account_for(signed_in, client)
        return self.account_for(offered, client)

    def account_for(self, offered: str, client: str) -> Account | None:
        """Return the account of a key or token as text, "" for none; raises as `account_of` does."""
        if not self.demanded:
            return None
        try:
            return self._account_for(offered)
        except CredentialRefused as refusal:
            self._refused(refusal.reason)
            if refusal.reason == "wrong":
                self._tries.spend(BUDGET, client)
            raise

    def of_key_id(self, key_id: str) -> Account:
        """Return the account of a key that has been checked before, as a session has. Raises CredentialRefused."""
        key = None if self._keys is None else self._keys.by_id(key_id)
        if key is None:
            raise CredentialRefused(WRONG, "wrong")
        state = key.state(time.time())
        if state == "disabled":
            raise CredentialRefused(DISABLED, "disabled")
        if state == "expired":
            raise CredentialRefused(EXPIRED, "expired")
        return key.account

    def _account_for(self, offered: str) -> Account:
        if not offered:
            raise CredentialRefused(MISSING, "missing")
        key = None if self._keys is None else self._keys.find(offered, time.time())
        if key is not None:
            return self.of_key_id(key.id)
        if self._tokens is None or offered.count(".") != 2:
            raise CredentialRefused(WRONG, "wrong")
        try:
            return self._tokens.account_of(offered)
        except TokenRefused as error:
            message, reason = (EXPIRED, "expired") if error.expired else (WRONG, "wrong")
            raise CredentialRefused(message, reason) from error


def credential(authorization: str, api_key: str) -> str:
    """Return the key in the values of Authorization and X-Api-Key, "" if there is none; a bearer's counts first."""
    scheme, _, token = authorization.partition(" ")
    return (token.strip() if scheme.lower() == "bearer" else "") or api_key.strip()


def check_model(account: Account, *names: str, asked: str | None = None) -> None:
    """Raise Forbidden unless the account may use the model that has these names. asked: the one that was asked for."""
    if not account.may_use(*names):
        shown = names[0] if asked is None else asked
        raise Forbidden(Message("model_forbidden", "This key may not use the model {model}.", model=shown))
