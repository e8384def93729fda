"""The texts of the pages in the visitor's language, from `locales/`, and the translations of error messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import g, request

from edge.errors import Sentence
from edge.ready_made import LANGUAGE_HEADER
from engine.errors import Message
from engine.text import images

FOLDER = Path(__file__).parent.parent / "locales"
DEFAULT = "en"
COOKIE = "avito_ai_language"
LEAST = 0.01  # that is shown in decimals


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
            values = message.values.items()
            return translated.format(**{name: self._value(value, error_code) for name, value in values})
        general: str = self.texts["codes"][error_code]
        return general

    def stage(self, stage: str) -> str:
        """Return a stage of a load in this language; one without a key is shown as the start that it belongs to."""
        starting: str = self.texts["progress"]["starting"]
        return self.sentence(stage, "not_ready") if isinstance(stage, Message) else starting

    def _value(self, value: object, error_code: str) -> object:
        """Return a value of a message in this language: it may be a message itself."""
        return self.sentence(value, error_code) if isinstance(value, Message) else value

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number in this language's notation."""
        marks = {",": self.texts["marks"]["thousands"], ".": self.texts["marks"]["decimal"]}
        return f"{value:,.{digits}f}".translate(str.maketrans(marks))

    def figure(self, value: float) -> str:
        """Return a measured number with as many decimals as its size deserves; what is something is never 0."""
        if 0 < abs(value) < LEAST:
            return f"<{self.number(LEAST, 2)}"
        digits = 2 if abs(value) < 1 else 1 if abs(value) < 10 else 0
        shown = self.number(value, digits)
        return shown.rstrip("0").rstrip(self.texts["marks"]["decimal"]) if digits else shown

    def duration(self, seconds: float) -> str:
        """Return a measured time with its unit, milliseconds below a second."""
        names: dict[str, str] = self.texts["status"]["durations"]
        if round(1000 * seconds) < 1000:
            return names["milliseconds"].format(milliseconds=self.figure(1000 * seconds))
        return names["seconds"].format(seconds=self.figure(seconds))

    def for_scripts(self) -> dict[str, Any]:
        """Return the texts that the scripts show; they have none of their own."""
        problems = {message.key: self.sentence(message, "validation_error") for message in images.PROBLEMS}
        more = {"dropped": self.texts["follow_up"]["dropped"], "history": self.texts["history"]["live"]}
        more["durations"] = self.texts["status"]["durations"]
        live = self.texts["live"] | more
        next_steps = self.texts["next"] | {"forbidden": ""}  # which the refusal of what a page asks for has itself
        return {"live": live, "image_problems": problems, "codes": self.texts["codes"], "next": next_steps}


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


def speak(code: str) -> None:
    """Answer the current request in a language, which the visitor chooses with it."""
    g.language = code


def visitors_locale() -> Locale:
    """Return the language that the visitor chose, or else the best match for the browser's Accept-Language."""
    chosen = g.get("language", request.cookies.get(COOKIE))
    if chosen in LOCALES:
        return LOCALES[chosen]
    return LOCALES[request.accept_languages.best_match(sorted(LOCALES), DEFAULT) or DEFAULT]
