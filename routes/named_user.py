"""Whom a request of /v1 names as its user: an id of the program's own, under which usage is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.request_state import request_state

LONGEST = 128  # characters; what is longer is cut


def note_user(body: Mapping[str, Any]) -> None:
    """Note the user that a body names: OpenAI's `safety_identifier` or `user`, Anthropic's `metadata.user_id`.

    Another kind of value, and a blank one, names nobody: these fields change no answer, so none is refused.
    """
    metadata = body.get("metadata")
    inside = metadata.get("user_id") if isinstance(metadata, dict) else None
    named = (one for one in (body.get("safety_identifier"), body.get("user"), inside) if isinstance(one, str))
    request_state().user = next((text[:LONGEST] for one in named if (text := one.strip())), "")
