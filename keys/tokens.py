"""Tokens (JWT, RFC 7519) of the operator's issuer as credentials: which are accepted, and whom they stand for.

A token counts only with an algorithm whose key is configured: HS256 with JWT_SECRET_KEY, RS256 and ES256 with the keys
of JWT_JWKS_FILE. The file is read by the thread that keeps client keys up to date, never by a request.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jwt

from config import Settings
from engine.errors import StartError
from keys.account import Account, Limits
from keys.record import KeyFieldError, checked_limit, checked_models

log = logging.getLogger("avito_ai.keys")

MAX_BYTES = 8192
MAX_SUBJECT = 128
MAX_CACHED = 4096
# Key types and curves of a JWK, by the algorithm that takes them. RFC 7518, section 3.1.
FAMILIES = {"RS256": ("RSA", None), "ES256": ("EC", "P-256")}
MIN_RSA_BITS = 2048
SHARED = "HS256"  # of JWT_SECRET_KEY alone; no key of a set is for it

Signature = tuple[int, int, int]


class TokenRefused(Exception):
    """A token that does not count; `expired` where its time alone is over."""

    def __init__(self, expired: bool = False) -> None:
        super().__init__("the token is refused")
        self.expired = expired


class KeySetError(Exception):
    """JWT_JWKS_FILE cannot be used."""


class TokenVerifier:
    """Verifies tokens; thread-safe. clock: seconds since the epoch."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._access, self._clock = settings.access, clock
        self._signature: Signature | None = None
        self._failing = ""
        self._lock = threading.Lock()  # guards the fields below
        self._keys: list[tuple[str, str | None, Any]] = []  # algorithm, kid, key
        self._verified: OrderedDict[bytes, tuple[Account, float]] = OrderedDict()

    def load(self) -> None:
        """Read the keys. Raises StartError."""
        try:
            self._read()
        except KeySetError as error:
            raise StartError(f"JWT_JWKS_FILE={self._access.jwt_jwks_file}: {error}.") from error

    def refresh(self) -> None:
        """Read the file again if it has changed; a failure leaves the keys as they are."""
        if self._access.jwt_jwks_file is None:
            return
        try:
            self._read()
        except KeySetError as error:
            if str(error) != self._failing:
                log.warning("JWT_JWKS_FILE cannot be used (%s): the keys known before stay in force.", error)
            self._failing = str(error)
        else:
            self._failing = ""

    def use_secret(self, secret: str) -> None:
        """Verify with another JWT_SECRET_KEY; tokens that the former one signed count no longer."""
        self._access = replace(self._access, jwt_secret_key=secret)
        self._use([key for key in self._keys if key[0] != SHARED])

    @property
    def failing(self) -> bool:
        """True while the file cannot be read, and the keys known before stay in force."""
        return bool(self._failing)

    def account_of(self, token: str) -> Account:
        """Return whom a token stands for. Raises TokenRefused."""
        if len(token) > MAX_BYTES or not token.isascii():
            raise TokenRefused
        mark = hashlib.sha256(token.encode()).digest()
        with self._lock:
            known = self._verified.get(mark)
            keys = self._keys
        if known is None:
            known = self._verify(token, keys)
            self._keep(mark, known, keys)
        if self._clock() >= known[1]:
            raise TokenRefused(expired=True)
        return known[0]

    def _keep(self, mark: bytes, known: tuple[Account, float], keys: list[tuple[str, str | None, Any]]) -> None:
        """Remember a token that these keys verified, unless others are in force by now."""
        with self._lock:
            if keys is self._keys:
                self._verified[mark] = known
                while len(self._verified) > MAX_CACHED:
                    self._verified.popitem(last=False)

    def _verify(self, token: str, keys: list[tuple[str, str | None, Any]]) -> tuple[Account, float]:
        """Return whom the token stands for, and until when."""
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header["alg"]
            claims = jwt.decode(
                token,
                _key_for(algorithm, header, keys),
                algorithms=[algorithm],
                audience=self._access.jwt_audience,
                issuer=self._access.jwt_issuer,
                options={"require": ["exp"], "verify_iat": False},
            )
            return self._account(claims), float(claims["exp"])
        except jwt.ExpiredSignatureError as error:
            raise TokenRefused(expired=True) from error
        except TokenRefused:
            raise
        except Exception as error:  # whatever else a token made up by anybody leads the library to
            raise TokenRefused from error

    def _account(self, claims: dict[str, Any]) -> Account:
        access = self._access
        subject = claims.get(access.jwt_subject_claim)
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
            raise TokenRefused
        name = claims.get(access.jwt_name_claim)
        named = isinstance(name, str) and 0 < len(name) <= MAX_SUBJECT and name.isprintable()
        return Account(
            f"jwt:{subject}",
            str(name) if named else subject,
            _limits(claims.get(access.jwt_limits_claim) if access.jwt_limits_claim else None),
            _models(claims.get(access.jwt_models_claim) if access.jwt_models_claim else None),
        )

    def _read(self) -> None:
        """Bring the keys up to date with settings and file; tokens that older ones verified are verified again."""
        file, signature, keys = self._access.jwt_jwks_file, None, list[tuple[str, str | None, Any]]()
        if file is not None:
            signature = _signature_of(file)
            if signature == self._signature:
                return
            keys = _read_key_set(file)
        self._use(keys)
        self._signature = signature

    def _use(self, key_set: list[tuple[str, str | None, Any]]) -> None:
        """Verify with the keys of a set from now on, and with the shared key of the settings."""
        secret = self._access.jwt_secret_key
        with self._lock:
            self._keys = [*([] if secret is None else [(SHARED, None, secret)]), *key_set]
            self._verified.clear()


def _key_for(algorithm: object, header: dict[str, Any], keys: list[tuple[str, str | None, Any]]) -> Any:
    """Return the one key for a token. Raises TokenRefused where there is none, or where several could be meant."""
    if header.keys() & {"crit", "b64"}:  # extensions that would have to be understood
        raise TokenRefused
    kid = header.get("kid")
    fitting = [key for known, own, key in keys if known == algorithm and (kid is None or own in (None, kid))]
    if len(fitting) != 1:
        raise TokenRefused
    return fitting[0]


def _limits(claimed: object) -> Limits:
    if claimed is None:
        return Limits()
    names = {field.name for field in fields(Limits)}
    if not isinstance(claimed, dict) or not claimed.keys() <= names:
        raise TokenRefused  # a limit that cannot be held is no reason to go without
    try:
        return Limits(**{name: checked_limit(name, value) for name, value in claimed.items()})
    except KeyFieldError as error:
        raise TokenRefused from error


def _models(claimed: object) -> frozenset[str] | None:
    """Return the names of models in a list, or in a text with spaces or commas between them."""
    if isinstance(claimed, str):
        claimed = claimed.replace(",", " ").split()
    try:
        return checked_models(claimed)
    except KeyFieldError as error:
        raise TokenRefused from error


def _signature_of(file: Path) -> Signature:
    try:
        found = file.stat()
    except OSError as error:
        raise KeySetError(f"it cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read_key_set(file: Path) -> list[tuple[str, str | None, Any]]:
    """Return the keys of a JWK set (RFC 7517) that verify signatures with our algorithms."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["keys"]
        keys = [key for entry in entries if (key := _key_of(entry)) is not None]
    except OSError as error:
        raise KeySetError(f"it cannot be read: {error.strerror}") from error
    except Exception as error:
        raise KeySetError('expected a JWK set, {"keys": [...]}') from error
    if not keys:
        raise KeySetError("it has no key for RS256 (2048 bits or more) or ES256")
    return keys


def _key_of(entry: dict[str, Any]) -> tuple[str, str | None, Any] | None:
    """Return one key of a set, None for one that is for something else."""
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig" or (operations is not None and "verify" not in operations):
        return None
    for algorithm, (family, curve) in FAMILIES.items():
        if entry.get("kty") == family and entry.get("crv") == curve and entry.get("alg", algorithm) == algorithm:
            public = {name: value for name, value in entry.items() if name in ("kty", "n", "e", "crv", "x", "y")}
            key = jwt.PyJWK(public, algorithm).key
            too_short = algorithm == "RS256" and key.key_size < MIN_RSA_BITS
            return None if too_short else (algorithm, entry.get("kid"), key)
    return None
