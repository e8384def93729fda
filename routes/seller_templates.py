"""The page's templates for sellers: the prompt that is made of their fields, and of a length and a tone.

`static/templates.js` makes the same of the same texts, so that what is asked does not depend on scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routes.locale import visitors_locale
from routes.services import services

TEMPLATE, LENGTH, TONE, DETAILED = "template", "length", "tone", "detailed"
MODELS = {"text": "avibe", "image": "avision"}
# The fields of each template, by form; the first is what it is about.
TEMPLATES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "text": {
        "listing": ("item", "condition", "price", "city"),
        "title": ("item", "condition"),
        "reply": ("message", "item"),
        "price_line": ("item", "price"),
    },
    "image": {"photo_title": (), "photo_condition": ()},
}
LENGTHS = ("short", "usual", DETAILED)
TONES = ("neutral", "friendly", "businesslike")
FIELDS = (TEMPLATE, "item", "condition", "price", "city", "message", LENGTH, TONE)


def asked(kind: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of a form with the prompt that it asks for, and with room for an answer in detail."""
    found = {**fields, "prompt": prompt_of(kind, fields)}
    if fields.get(LENGTH) == DETAILED and not fields.get("max_tokens", "").strip():
        found["max_tokens"] = str(detailed_tokens(kind))
    return found


def fields_of(kind: str) -> dict[str, list[str]]:
    """Return the fields of a form's templates, each with the names of those that it belongs to."""
    found: dict[str, list[str]] = {}
    for template, fields in TEMPLATES[kind].items():
        for field in fields:
            found.setdefault(field, []).append(template)
    return found


def detailed_tokens(kind: str) -> int:
    """Return how many tokens an answer in detail may have: twice the default, where the context has room."""
    default, settings = default_tokens(kind), services().settings.generation
    room = services().models.get(MODELS[kind]).info.max_model_len // 2
    return max(default, min(2 * default, settings.max_tokens_limit, room))


def default_tokens(kind: str) -> int:
    """Return how many tokens an answer may have without a wish."""
    info = services().models.get(MODELS[kind]).info
    return services().settings.generation.default_tokens(info.vision, info.max_model_len)


def prompt_of(kind: str, fields: Mapping[str, str]) -> str:
    """Return the prompt that a form asks for. kind: of the form; what it does not know is left out."""
    texts = visitors_locale().texts["templates"]
    values = {name: fields.get(name, "").strip() for name in FIELDS}
    own, name = fields.get("prompt", ""), values[TEMPLATE]
    lines = [own]
    if name in TEMPLATES[kind]:
        lines = _lines(texts, name, TEMPLATES[kind][name], values, own)
    if not any(line.strip() for line in lines):
        return own
    wishes = (texts["told"].get(values[wish], "") for wish in (LENGTH, TONE))
    return "\n".join(filter(None, [*lines, " ".join(filter(None, wishes))]))


def _lines(
    texts: Mapping[str, Any], name: str, fields: tuple[str, ...], values: Mapping[str, str], own: str
) -> list[str]:
    """Return what a template asks, and what was written beside it; nothing where it says not what it is about."""
    if not fields:
        return [texts["ask"][name], own.strip()]
    about = values[fields[0]] or own.strip()
    if not about:
        return []
    told = [texts["told"][field].format(value=values[field]) for field in fields[1:] if values[field]]
    return [", ".join([texts["ask"][name].format(about=about), *told]), own.strip() if values[fields[0]] else ""]
