"""Going on from an answer on the page without JavaScript: what its form sends, and what the page then shows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engine.errors import ValidationError
from routes import seller_templates
from routes.locale import visitors_locale
from routes.request_models import Turn
from routes.services import services

CONVERSATION, CHANGE, BUTTON = "conversation", "change", "follow_up"


@dataclass(frozen=True, slots=True)
class Talk:
    """What the page shows of a conversation: the turns before its last question, that question, and its form's fields.

    signed: "" where there is nothing to go on from; dropped: how many of the oldest turns the model was not told.
    """

    turns: tuple[Turn, ...] = ()
    question: str = ""
    signed: str = ""
    change: str = ""
    dropped: int = 0


def asked(kind: str, fields: Mapping[str, str]) -> tuple[dict[str, str], tuple[Turn, ...]]:
    """Return the fields with the question that was asked as their prompt, and the turns that it goes on from."""
    if not fields.get(BUTTON):
        return seller_templates.asked(kind, fields), ()
    turns = services().conversations.read(kind, fields.get(CONVERSATION, ""))
    return {**fields, "prompt": _change(fields)}, turns


def talk(kind: str, typed: Mapping[str, str], text: str | None = None, dropped: int = 0) -> Talk:
    """Return what to show once a form was answered with a text, or was refused (None)."""
    conversations, turns = services().conversations, tuple[Turn, ...]()
    follows, question = bool(typed.get(BUTTON)), seller_templates.prompt_of(kind, typed)
    if follows:
        question = _change(typed)
        with suppress(ValidationError):
            turns = conversations.read(kind, typed.get(CONVERSATION, ""))
    if text is not None:
        now = (*turns[dropped:], Turn(prompt=question, text=text))
        return Talk(turns, question, conversations.signed(kind, now), dropped=dropped)
    return Talk(turns, question, typed.get(CONVERSATION, "") if turns else "", typed.get(CHANGE, ""))


def _change(fields: Mapping[str, str]) -> str:
    """Return the change that was asked for: of the button that was pressed, or as it was written."""
    texts = visitors_locale().texts["follow_up"]
    chips: Mapping[str, Mapping[str, Any]] = {"continue": texts["continue"], **texts["chips"]}
    chip = chips.get(fields[BUTTON])
    return chip["prompt"] if chip else fields.get(CHANGE, "")
