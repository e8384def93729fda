"""Reads the keywords of one schema that need no other schema, into a shape of each type."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

from engine.text.schema import multiples
from engine.text.schema.document import Subschema
from engine.text.schema.keywords import NUMBER_KEYWORDS, STRING_KEYWORDS
from engine.text.schema.patterns import Untranslatable, conjuncts
from engine.text.schema.refusal import INVALID, UNSUPPORTED, SchemaRefused, below
from engine.text.schema.shapes import Number, Origins, String, is_number, tidy_number

TYPES = ("null", "boolean", "number", "string", "array", "object")
LONGEST = 2**31  # a limit beyond it is none
TRANSLATED_A_WORK = 10  # characters of a pattern, for each unit of work


def types_of(subschema: Subschema) -> tuple[str, ...]:
    """Return the types that a schema names; all of them if it names none."""
    named = subschema.raw.get("type", list(TYPES))
    types = [named] if isinstance(named, str) else named
    known = isinstance(types, list) and all(isinstance(name, str) and name in (*TYPES, "integer") for name in types)
    if not known or not types:
        raise SchemaRefused(INVALID, below(subschema.pointer, "type"))
    return tuple(dict.fromkeys(name for name in types if name != "integer" or "number" not in types))


def origins(subschema: Subschema, keywords: tuple[str, ...]) -> Origins:
    """Return where those of the keywords stand that a schema has."""
    return {keyword: below(subschema.pointer, keyword) for keyword in keywords if keyword in subschema.raw}


def count(subschema: Subschema, keyword: str) -> int | None:
    """Return the value of a keyword that limits a length; None without a limit."""
    value = subschema.raw.get(keyword)
    if value is None and keyword not in subschema.raw:
        return None
    if not is_number(value) or not isfinite(value) or value < 0 or value != int(value):
        raise SchemaRefused(INVALID, below(subschema.pointer, keyword), "not a non-negative integer")
    return int(value) if value < LONGEST else None


def read_numbers(subschema: Subschema, integer: bool) -> Number | None:
    """Return the numbers that a schema allows; None if it allows none."""
    low, high = _number(subschema, "minimum"), _number(subschema, "maximum")
    shape = Number(integer, low, high, origins=origins(subschema, NUMBER_KEYWORDS))
    multiple = _number(subschema, "multipleOf")
    if multiple is not None and multiple <= 0:
        raise SchemaRefused(INVALID, below(subschema.pointer, "multipleOf"), "not above zero")
    if multiple is not None and (reason := multiples.trouble(multiple)) is not None:
        raise SchemaRefused(UNSUPPORTED, below(subschema.pointer, "multipleOf"), reason)
    low_open, high_open = subschema.raw.get("exclusiveMinimum"), subschema.raw.get("exclusiveMaximum")
    if isinstance(low_open, bool):  # as in draft 4
        low_open = low if low_open else None
    else:
        low_open = _number(subschema, "exclusiveMinimum")
    if isinstance(high_open, bool):
        high_open = high if high_open else None
    else:
        high_open = _number(subschema, "exclusiveMaximum")
    above = low_open is not None and (low is None or low_open >= low)
    under = high_open is not None and (high is None or high_open <= high)
    return tidy_number(
        Number(
            integer,
            low_open if above else low,
            high_open if under else high,
            above,
            under,
            None if multiple is None else multiples.exact(multiple),
            shape.origins,
        )
    )


def read_strings(subschema: Subschema, spend: Callable[[int, str], None]) -> String | None:
    """Return the strings that a schema allows; None if it allows none. spend: what counts work."""
    raw, least, most = subschema.raw, count(subschema, "minLength") or 0, count(subschema, "maxLength")
    formats = raw.get("format")
    if most is not None and least > most:
        return None
    return String(
        least,
        most,
        read_patterns(raw["pattern"], below(subschema.pointer, "pattern"), spend) if "pattern" in raw else (),
        (formats,) if isinstance(formats, str) else (),
        origins=origins(subschema, STRING_KEYWORDS),
    )


def read_pattern(pattern: Any, pointer: str, spend: Callable[[int, str], None]) -> str:
    """Return a pattern of names in the library's syntax. spend: what counts work."""
    found = read_patterns(pattern, pointer, spend)
    if len(found) > 1:
        raise SchemaRefused(UNSUPPORTED, pointer, "look-around and flags are not supported")
    return found[0]


def read_patterns(pattern: Any, pointer: str, spend: Callable[[int, str], None]) -> tuple[str, ...]:
    """Return patterns in the library's syntax that together say the same as one. spend: what counts work."""
    if not isinstance(pattern, str):
        raise SchemaRefused(INVALID, pointer, "not a string")
    spend(len(pattern) // TRANSLATED_A_WORK, pointer)
    try:
        return conjuncts(pattern)
    except Untranslatable as error:
        raise SchemaRefused(UNSUPPORTED, pointer, str(error)) from None


def schemas_by_name(subschema: Subschema, keyword: str) -> dict[str, Any]:
    """Return the value of a keyword that holds schemas by name."""
    value = subschema.raw.get(keyword, {})
    if not isinstance(value, dict):
        raise SchemaRefused(INVALID, below(subschema.pointer, keyword), "not an object")
    return value


def names(value: Any, pointer: str) -> tuple[str, ...]:
    """Return a list of names, each once. Draft 3's `required: true` stands in a property and means nothing here."""
    if isinstance(value, bool):
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SchemaRefused(INVALID, pointer, "not a list of names")
    return tuple(dict.fromkeys(value))


def _number(subschema: Subschema, keyword: str) -> float | None:
    value = subschema.raw.get(keyword)
    if keyword not in subschema.raw or isinstance(value, bool):
        return None
    if not is_number(value):
        raise SchemaRefused(INVALID, below(subschema.pointer, keyword), "not a number")
    if isinstance(value, float) and not isfinite(value):
        raise SchemaRefused(UNSUPPORTED, below(subschema.pointer, keyword), "a number that is too large")
    return float(value) if isinstance(value, float) else int(value)


def finite(value: Any, pointer: str) -> Any:
    """Return a JSON value. Raises SchemaRefused for a number that no program reads back as it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            finite(inner, below(pointer, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            finite(inner, below(pointer, index))
    elif isinstance(value, float) and not isfinite(value):
        raise SchemaRefused(UNSUPPORTED, pointer, "a number that is too large")
    elif is_number(value) and abs(value) > 2**53 and isinstance(value, int):
        raise SchemaRefused(UNSUPPORTED, pointer, "a number of more than 53 bits")
    return value
