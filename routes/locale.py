"""The texts of the pages in the visitor's language, from `locales/`, and the translations of error messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import request

from edge.errors import Sentence
from edge.ready_made import LANGUAGE_HEADER
from engine.errors import Message
from engine.text import images

FOLDER = Path(__file__).parent.parent / "locales"
DEFAULT = "en"
COOKIE = "avito_ai_language"


@dataclass(frozen=True, slots=True)
class Locale:
    """One language. texts: as its file has them; those under `messages` translate the errors' messages, by key."""

    code: str
    texts: dict[str, Any]

    def sentence(self, message: str, error_code: str) -> str:
        """Return an error's message in this language; one without a key is replaced by the text for its code."""
        if self.code == DEFAULT:
            return message
        if isinstance(message, Message):
            translated: str = self.texts["messages"][message.key]
            return translated.format(**message.values)
        general: str = self.texts["codes"][error_code]
        return general

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number in this language's notation."""
        marks = {",": self.texts["marks"]["thousands"], ".": self.texts["marks"]["decimal"]}
        return f"{value:,.{digits}f}".translate(str.maketrans(marks))

    def for_scripts(self) -> dict[str, Any]:
        """Return the texts that the scripts show; they have none of their own."""
        problems = {message.key: self.sentence(message, "validation_error") for message in images.PROBLEMS}
        return {name: self.texts[name] for name in ("live", "codes", "next")} | {"image_problems": problems}


def _load(path: Path) -> Locale:
    return Locale(path.stem, json.loads(path.read_text(encoding="utf-8")))


LOCALES = {locale.code: locale for locale in map(_load, sorted(FOLDER.glob("*.json")))}


def api_sentence() -> Sentence:
    """Return what translates the messages in the JSON of /api: to English, unless LANGUAGE_HEADER names another locale.

    The scripts of the page name theirs. A browser's Accept-Language does not count, so that programs get English.
    """
    return sentence_in(request.headers.get(LANGUAGE_HEADER, DEFAULT))


def sentence_in(language: str) -> Sentence:
    """Return what translates messages into this language, if there is a locale for it, else into English."""
    return LOCALES.get(language, LOCALES[DEFAULT]).sentence


def visitors_locale() -> Locale:
    """Return the language that the visitor chose, or else the best match for the browser's Accept-Language."""
    chosen = request.cookies.get(COOKIE)
    if chosen in LOCALES:
        return LOCALES[chosen]
    return LOCALES[request.accept_languages.best_match(sorted(LOCALES), DEFAULT) or DEFAULT]
