"""Reads a JSON value in pieces as a model writes it, and writes it as JSON that every client reads.

What is written does not depend on how the text is cut, so a stream shows what a whole answer shows. Only what is
certain is written: numbers and words at their end, escapes once they are whole. Mended, since models do it: control
characters in strings and unknown escapes (escaped), half a surrogate pair (U+FFFD), commas before a closing bracket
(left out), Python's words (JSON's), NaN and infinities (null, as JavaScript writes them), and numbers beyond a double
(the largest one). Anything else that is not JSON ends the value as broken. White space is always ", " and ": ".
"""

from __future__ import annotations

import json
import math
from enum import Enum, auto

MAX_DEPTH = 256  # of lists and objects; readers that recurse fail somewhat above
WINDOW = 256  # characters of a string that are searched at once, so that the time is linear
LARGEST = "1.7976931348623157e+308"
WHITE = " \t\n\r"
WORDS = {"True": "true", "False": "false", "None": "null", "NaN": "null", "Infinity": "null", "-Infinity": "null"}
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_LONE = "\\ufffd"
_UNSAFE = {code: json.dumps(chr(code))[1:-1] for code in range(32)} | dict.fromkeys(range(0xD800, 0xE000), _LONE)


class _Next(Enum):
    """What may come next."""

    VALUE = auto()
    KEY = auto()
    COLON = auto()
    COMMA = auto()
    STRING = auto()
    WORD = auto()


class JsonStream:
    """One JSON value. done: it is complete; broken: it is no JSON; rest: the text behind it, once it is either."""

    __slots__ = ("_comma", "_held", "_next", "_open", "_string_is_key", "_word_so_far", "broken", "done", "rest")

    def __init__(self) -> None:
        self.done = self.broken = False
        self.rest = ""
        self._open: list[str] = []  # closing brackets of what is open
        self._next = _Next.VALUE
        self._comma = ""  # separates the next element from the last
        self._held = ""  # an escape that is not whole
        self._word_so_far = ""
        self._string_is_key = False

    def feed(self, text: str) -> str:
        """Take the next piece and return what is certain now. Must not be called once it is done or broken."""
        text, self._held = self._held + text, ""
        written: list[str] = []
        at = 0
        while at < len(text) and not self.done and not self.broken:
            if self._next is _Next.STRING:
                at = self._string(text, at, written)
            elif self._next is _Next.WORD:
                at = self._word(text, at, written)
            elif text[at] in WHITE:
                at += 1
            else:
                at = self._structure(text, at, written)
        if self.done or self.broken:
            self.rest = text[at:]
        return "".join(written)

    def _structure(self, text: str, at: int, written: list[str]) -> int:
        """Read one character between strings and words; a word is left to `_word`."""
        character, wanted = text[at], self._next
        if self._open and character == self._open[-1] and self._may_close():
            self._open.pop()
            written.append(character)
            self._ended()
        elif wanted is _Next.COMMA and character == ",":
            self._comma = ", "
            self._next = _Next.KEY if self._open[-1] == "}" else _Next.VALUE
        elif wanted is _Next.COLON and character == ":":
            written.append(": ")
            self._next = _Next.VALUE
        elif character == '"' and wanted in (_Next.KEY, _Next.VALUE):
            written.append(f'{self._take_comma()}"')
            self._string_is_key, self._next = wanted is _Next.KEY, _Next.STRING
        elif wanted is _Next.VALUE and character in "{[" and len(self._open) < MAX_DEPTH:
            written.append(self._take_comma() + character)
            self._open.append("}" if character == "{" else "]")
            self._next = _Next.KEY if character == "{" else _Next.VALUE
        elif wanted is _Next.VALUE and character in _WORD:
            self._next = _Next.WORD
            return at
        else:
            self.broken = True
            return at
        return at + 1

    def _may_close(self) -> bool:
        """True if the innermost bracket may be closed here: not between a key and its value."""
        if self._next is _Next.VALUE:
            allowed = self._open[-1] == "]"
        else:
            allowed = self._next in (_Next.KEY, _Next.COMMA)
        return allowed

    def _take_comma(self) -> str:
        comma, self._comma = self._comma, ""
        return comma

    def _ended(self) -> None:
        """A value has ended."""
        self._comma, self._next = "", _Next.COMMA
        self.done = not self._open

    def _word(self, text: str, at: int, written: list[str]) -> int:
        end = at
        while end < len(text) and text[end] in _WORD:
            end += 1
        self._word_so_far += text[at:end]
        if end == len(text):
            return end
        word = _mended(self._word_so_far)
        if word is None:
            self.broken = True
            return end
        self._word_so_far = ""
        written.append(self._take_comma() + word)
        self._ended()
        return end

    def _string(self, text: str, at: int, written: list[str]) -> int:
        window = min(at + WINDOW, len(text))
        quote = text.find('"', at, window)
        escape = text.find("\\", at, quote if quote >= 0 else window)
        end = escape if escape >= 0 else quote if quote >= 0 else window
        run = text[at:end]
        written.append(run if run.isprintable() else run.translate(_UNSAFE))
        if escape >= 0:
            return self._escape(text, end, written)
        if quote < 0:
            return end
        written.append('"')
        if self._string_is_key:
            self._next = _Next.COLON
        else:
            self._ended()
        return end + 1

    def _escape(self, text: str, at: int, written: list[str]) -> int:
        shown, length = _escape(text[at : at + 12])
        if shown is None:
            self._held = text[at:]
            return len(text)
        written.append(shown)
        return at + length


def _escape(text: str) -> tuple[str | None, int]:
    """Return how the escape at the start of a text is written and its length, None if more of the text is needed."""
    if len(text) < 2:
        return None, 0
    if text[1] != "u":
        return (text[:2], 2) if text[1] in _ESCAPES else ("\\\\", 1)
    first = _unit(text)
    if first is None:
        return None, 0
    if first < 0:
        return "\\\\", 1
    if not 0xD800 <= first < 0xE000:
        return text[:6], 6
    if first >= 0xDC00:
        return _LONE, 6
    following = text[6:]
    second = _unit(following)
    if second is None:
        return None, 0
    return (text[:12], 12) if 0xDC00 <= second < 0xE000 else (_LONE, 6)


def _unit(text: str) -> int | None:
    r"""Return the code unit of a \uXXXX at the start of a text, -1 for anything else, None if it may yet be one."""
    if not "\\u".startswith(text[:2]) or not _HEX.issuperset(text[2:6]):
        return -1
    return int(text[2:6], 16) if len(text) >= 6 else None


def _mended(word: str) -> str | None:
    """Return a number or a word as JSON, None if it is neither."""
    word = WORDS.get(word, word)
    try:
        value = json.loads(word, parse_int=float)
    except ValueError:
        return None
    if isinstance(value, float) and math.isinf(value):
        return f"{'-' if value < 0 else ''}{LARGEST}"
    return word
