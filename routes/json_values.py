"""What the values of a client's JSON must be: text that UTF-8 can express, and numbers that a double can hold.

JSON can write more than that: half of a surrogate pair (RFC 8259, section 8.2), and numbers of any size (section 6).
"""

from __future__ import annotations

import math
import re
from typing import Any

from engine.errors import Message, ValidationError

SURROGATE = re.compile("[\ud800-\udfff]")
PIECE_CHARACTERS = 64 * 1024  # searched at once, since a search holds the interpreter lock

Step = str | int


def check_values(value: Any, strings: bool = True) -> None:
    """Raise ValidationError for the first string or name with a lone surrogate, and the first number out of range.

    strings: False to check names and numbers alone. The error names the field by its path.
    """
    fault = _fault(value, strings)
    if fault is not None:
        path = _path(fault[1][::-1])
        raise ValidationError(_message(fault[0], path or "The request body"), path or None)


def is_text(string: str) -> bool:
    """Return False for a string with a lone surrogate, which JSON can express and UTF-8 cannot."""
    if string.isascii():
        return True
    starts = range(0, len(string), PIECE_CHARACTERS)
    return not any(SURROGATE.search(string, start, start + PIECE_CHARACTERS) for start in starts)


def shown_name(name: str) -> str:
    """Return a field's name if it is printable and short, as messages and logs need it."""
    return name if 0 < len(name) <= 64 and name.isprintable() else "(unreadable)"


def _fault(value: Any, strings: bool) -> tuple[Any, list[Step]] | None:
    """Return the first wrong string or number in a value, and the steps to it, the innermost first."""
    if isinstance(value, str):
        return (value, []) if strings and not is_text(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else (value, [])
    if isinstance(value, dict):
        for name, item in value.items():
            found = _fault(item, strings) if is_text(name) else (name, [])
            if found is not None:
                return found[0], [*found[1], name]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if (found := _fault(item, strings)) is not None:
                return found[0], [*found[1], index]
    return None


def _message(wrong: Any, name: str) -> Message:
    if isinstance(wrong, str):
        return Message("text_characters", "{name} has characters that are not allowed in a text.", name=name)
    return Message("number_range", "{name} must be a finite number, at most 1.7e308.", name=name)


def _path(steps: list[Step]) -> str:
    """Return a path as a client would write it: `messages[2].content`."""
    path = ""
    for step in steps:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            name = shown_name(SURROGATE.sub("\ufffd", step))
            path += f".{name}" if path else name
    return path
