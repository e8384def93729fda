"""The texts that visitors read, in their language, from `locales/`; no such text stands in the code."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import request

FOLDER = Path(__file__).parent.parent / "locales"
DEFAULT = "en"
COOKIE = "avito_ai_language"
HOLE = re.compile(r"\\\{(\w+)\\\}")


@dataclass(frozen=True, slots=True)
class Locale:
    """One language. texts: as its file has them; messages: patterns of our errors' sentences with their translation."""

    code: str
    texts: dict[str, Any]
    messages: tuple[tuple[re.Pattern[str], str], ...]

    def sentence(self, message: str, error_code: str) -> str:
        """Return an error's sentence in this language; what has no translation is said in general, by its code."""
        if self.code == DEFAULT:
            return message
        for pattern, translated in self.messages:
            if match := pattern.fullmatch(message):
                return translated.format(**match.groupdict())
        general: str = self.texts["codes"][error_code]
        return general

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number as it is written in this language."""
        marks = {",": self.texts["marks"]["thousands"], ".": self.texts["marks"]["decimal"]}
        return f"{value:,.{digits}f}".translate(str.maketrans(marks))

    def for_scripts(self) -> dict[str, Any]:
        """Return what a script needs to tell a visitor what happens: it has no text of its own."""
        messages = [(pattern.pattern.replace("?P<", "?<"), text) for pattern, text in self.messages]
        return {name: self.texts[name] for name in ("live", "codes", "next")} | {"messages": messages}


def _load(path: Path) -> Locale:
    texts = json.loads(path.read_text(encoding="utf-8"))
    messages = tuple((_pattern(message), translated) for message, translated in texts["messages"].items())
    return Locale(path.stem, texts, messages)


def _pattern(message: str) -> re.Pattern[str]:
    """Turn `Maximum side: {n} pixels` into a pattern with a group for each hole."""
    return re.compile(HOLE.sub(r"(?P<\1>.+)", re.escape(message)))


LOCALES = {locale.code: locale for locale in map(_load, sorted(FOLDER.glob("*.json")))}


def visitors_locale() -> Locale:
    """Return the language that the visitor has chosen, else the one that the browser likes best among ours."""
    chosen = request.cookies.get(COOKIE)
    if chosen in LOCALES:
        return LOCALES[chosen]
    return LOCALES[request.accept_languages.best_match(sorted(LOCALES), DEFAULT) or DEFAULT]
