"""Client keys as text: `avito_<id>_<secret>`. The id is public; the secret, of 256 random bits, is shown once.

Only the SHA-256 of a key is kept. A slow hash would add nothing: nobody tries out 256 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field

PREFIX = "avito"
ID_LENGTH = 12
SECRET_LENGTH = 43  # of 62 letters and digits: 256 bits
_ID_LETTERS = string.ascii_lowercase + string.digits
_SECRET_LETTERS = string.ascii_letters + string.digits
_KEY = re.compile(rf"{PREFIX}_([a-z0-9]{{{ID_LENGTH}}})_[A-Za-z0-9]{{{SECRET_LENGTH}}}", re.ASCII)
ID = re.compile(rf"[a-z0-9]{{{ID_LENGTH}}}", re.ASCII)
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: the only place where its text is."""

    id: str
    text: str = field(repr=False)
    hash: str


def new_key(key_id: str | None = None) -> NewKey:
    """Return a random key, with another secret for the key of this id if there is one."""
    key_id = key_id or _random(_ID_LETTERS, ID_LENGTH)
    text = f"{PREFIX}_{key_id}_{_random(_SECRET_LETTERS, SECRET_LENGTH)}"
    return NewKey(key_id, text, digest(text))


def id_of(text: str) -> str | None:
    """Return the id in a key, None for what is no key of ours."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def digest(text: str) -> str:
    """Return the SHA-256 of a key in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Return whether two digests are equal; compared in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def _random(letters: str, length: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))
