"""The conversation so far as a field of the page's form, for a page that works without JavaScript.

The field holds it, so that the server stores nothing. It is signed, so that the page shows as answers of the model only
what the model has said, whichever page made a browser send the form (docs/decisions/conversation-in-the-form.md).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence

from itsdangerous import BadSignature

from edge.operator_session import cookie_serializer
from engine.errors import Message, ValidationError
from routes.request_models import Turn

SECONDS = 24 * 3600
MAX_BYTES = 64 * 1024  # of the turns as JSON, which bounds the size of the page
STALE = Message("conversation_stale", "This conversation cannot be continued any more. Please start over.")


class SignedConversations:
    """Signs and reads the conversations in forms. Copies of the service that share ADMIN_KEY read each other's.

    Without ADMIN_KEY the key of the signature is random and of this process. seconds: how long a signature is valid.
    """

    def __init__(self, admin_key: str | None, seconds: int = SECONDS) -> None:
        self._seconds = seconds
        self.use_admin_key(admin_key)

    def use_admin_key(self, admin_key: str | None) -> None:
        """Sign with another ADMIN_KEY from now on."""
        root = (admin_key or secrets.token_urlsafe(32)).encode()
        self._secret = hmac.new(root, b"conversations of the page", hashlib.sha256).hexdigest()

    def signed(self, kind: str, turns: Sequence[Turn]) -> str:
        """Return the field of a form. kind: of the form.

        The oldest turns beyond MAX_BYTES are dropped; "" where even the last one is too long to go on from.
        """
        kept: list[list[str]] = []
        room = MAX_BYTES
        for turn in reversed(turns):
            room -= len(json.dumps([turn.prompt, turn.text], ensure_ascii=False).encode())
            if room < 0:
                break
            kept.insert(0, [turn.prompt, turn.text])
        return str(cookie_serializer(self._secret, salt=kind).dumps(kept)) if kept or not turns else ""

    def read(self, kind: str, field: str) -> tuple[Turn, ...]:
        """Return the turns in a field that was signed for this form. Raises ValidationError for any other."""
        try:
            turns = cookie_serializer(self._secret, salt=kind).loads(field, max_age=self._seconds)
        except BadSignature as error:
            raise ValidationError(STALE, "conversation") from error
        return tuple(Turn(prompt=prompt, text=text) for prompt, text in turns)
