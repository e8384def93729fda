"""Regular expressions of JSON schemas (ECMA 262), written in the syntax of the grammar library (Rust's regex).

Where readers of a schema disagree about a class (`\\d` is ASCII in ECMA 262 and any digit in Python), the narrower one
is generated, so that an answer is valid for all of them. What the library lacks (look-around, back-references) is
refused.
"""

from __future__ import annotations

import re

SPACE, NOT_SPACE = r" \t\n\r\f\v", r"[^\s\x{feff}\x1c-\x1f]"
WORD, NOT_WORD = "0-9A-Za-z_", r"[^\p{L}\p{M}\p{N}_]"
# What a class escape becomes within a class: in a plain one, and in a negated one, where the wider set is the safe one.
PLAIN = {"d": "0-9", "D": r"\P{Nd}", "w": WORD, "W": NOT_WORD, "s": SPACE, "S": NOT_SPACE}
NEGATED = {
    "d": r"\p{Nd}",
    "D": "[^0-9]",
    "w": r"\p{L}\p{M}\p{N}_",
    "W": f"[^{WORD}]",
    "s": r"\s\x{feff}\x1c-\x1f",
    "S": f"[^{SPACE}]",
}
LINE = r"[^\n\r\x{2028}\x{2029}]"
CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}

_QUANTIFIER = re.compile(r"\{\d+(?:,\d*)?\}")
_REPEATED = re.compile(rf"[*+?]|{_QUANTIFIER.pattern}")
_PROPERTY = re.compile(r"[pP]\{[A-Za-z0-9_=]+\}")
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]+)\}")
_GROUP = re.compile(r"\(\?(?::|P?<[A-Za-z_$][A-Za-z0-9_$]*>)")
# The last but one is a class without an end: were it passed over, each `[` in it would be looked at to the end.
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\[.*|.", re.DOTALL)
_ALL_OF_A_CLASS = re.compile(r"(\\[dDwWsS]|\[(?:\\.|[^\]\\])+\])([*+])\$", re.DOTALL)
_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)


class Untranslatable(Exception):
    """A pattern that is none, or that has no equivalent; the argument says which part."""


def translate(pattern: str) -> str:
    """Return the pattern in Rust's syntax, without any shorthand class. Raises Untranslatable."""
    return _Translator(pattern).translate()


def conjuncts(pattern: str) -> tuple[str, ...]:
    """Return patterns in Rust's syntax that a text matches all if it matches the pattern.

    Look-ahead at the beginning is a condition of its own: `^(?=X)Y` is `^X` and `^Y`, and `^(?!C*$)Y` asks for a
    character that is not of the class C. Nothing repeats it: what does would stand behind the `^` of Y, and is refused
    there. Raises Untranslatable.
    """
    if not pattern.startswith(("^(?=", "^(?!")):
        return (translate(pattern),)
    conditions, at = [], 1
    while pattern.startswith(("(?=", "(?!"), at):
        end = _end_of_group(pattern, at)
        body = pattern[at + 3 : end].removeprefix("^")
        conditions.append(translate(f"^(?:{body})" if pattern[at + 2] == "=" else _outside(body)))
        at = end + 1
    if _has_alternatives(pattern[at:]):
        raise Untranslatable("look-around and flags are not supported")
    return (*conditions, translate(f"^{pattern[at:]}"))


def _outside(body: str) -> str:
    """Return the pattern of a text that is not all of the characters of one class, which `body` says up to the end."""
    found = _ALL_OF_A_CLASS.fullmatch(body)
    if not found:
        raise Untranslatable("look-around and flags are not supported")
    member = found[1]
    if member.startswith("\\"):
        other = member.swapcase()
    else:
        other = f"[{member[2:]}" if member.startswith("[^") else f"[^{member[1:]}"
    return other if found[2] == "*" else f"^$|{other}"


def _end_of_group(pattern: str, start: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(pattern, start):
        depth += (token[0] == "(") - (token[0] == ")")
        if not depth:
            return token.start()
    raise Untranslatable("a group without an end")


def _has_alternatives(pattern: str) -> bool:
    depth = 0
    for token in _TOKEN.finditer(pattern):
        depth += (token[0] == "(") - (token[0] == ")")
        if token[0] == "|" and not depth:
            return True
    return False


def literally(text: str) -> str:
    """Return a pattern, in Rust's syntax, that matches the text."""
    return "".join(_literal(ord(character)) for character in text)


def any_but(texts: frozenset[str]) -> str:
    """Return a pattern, in Rust's syntax, of every text except these: the complement of their trie."""
    return f"^(?:{_any_but(sorted(texts))})$"


def _any_but(texts: list[str]) -> str:
    heads = sorted({text[0] for text in texts if text})
    parts = [] if "" in texts else [""]
    parts.append(f"[^{''.join(map(literally, heads))}](?s:.*)" if heads else "(?s:.+)")
    for head in heads:
        parts.append(f"{literally(head)}(?:{_any_but([text[1:] for text in texts if text[:1] == head])})")
    return "|".join(parts)


def _literal(code: int) -> str:
    character = chr(code)
    return character if character.isalnum() else f"\\x{{{code:x}}}"


class _Translator:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at, self._parts = pattern, 0, [""]

    def translate(self) -> str:
        while self._at < len(self._pattern):
            self._parts.append(self._next())
        return "".join(self._parts)

    def _next(self) -> str:
        character = self._pattern[self._at]
        if character == "\\":
            return self._escape()
        if character == "[":
            return self._class()
        if character == "(":
            return self._group()
        if character == "{":
            found = _QUANTIFIER.match(self._pattern, self._at)
            self._at += len(found[0]) if found else 1
            return found[0] if found else r"\{"
        self._at += 1
        if character in "^$" and _REPEATED.match(self._pattern, self._at):
            raise Untranslatable("nothing to repeat")
        if character == ".":
            return LINE
        return rf"\{character}" if character in "]}" else character

    def _group(self) -> str:
        if not self._pattern.startswith("(?", self._at):
            self._at += 1
            return "("
        found = _GROUP.match(self._pattern, self._at)
        if not found:
            raise Untranslatable("look-around and flags are not supported")
        self._at += len(found[0])
        return "(?:"

    def _escape(self) -> str:
        """Translate an escape outside a class."""
        name = self._pattern[self._at + 1 : self._at + 2]
        if name in PLAIN and name:
            self._at += 2
            return f"[{PLAIN[name]}]"
        return self._property() or _literal(self._escaped_code())

    def _property(self) -> str:
        found = _PROPERTY.match(self._pattern, self._at + 1)
        if found:
            self._at += 1 + len(found[0])
        return f"\\{found[0]}" if found else ""

    def _escaped_code(self, in_class: bool = False) -> int:
        """Return the character that an escape stands for."""
        code = self._code()
        if code is None:
            code = self._single(in_class)
        elif code in _HIGH:
            low = self._code() if self._pattern.startswith("\\u", self._at) else None
            if low is not None and low in _LOW:
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        if code in _HIGH or code in _LOW or code > 0x10FFFF:
            raise Untranslatable("half a character")
        return code

    def _code(self) -> int | None:
        found = _CODE.match(self._pattern, self._at + 1)
        if not found:
            return None
        self._at += 1 + len(found[0])
        return int(found[1] or found[2] or found[3], 16)

    def _single(self, in_class: bool) -> int:
        name = self._pattern[self._at + 1 : self._at + 2]
        following = self._pattern[self._at + 2 : self._at + 3]
        self._at += 2
        if name == "c" and following.isalpha() and following.isascii():
            self._at += 1
            return ord(following) % 32
        if name in CONTROLS and not (name == "0" and following.isdigit()):
            return CONTROLS[name]
        if name == "b" and in_class:
            return 8
        if name in ("b", "B"):
            raise Untranslatable("word boundaries are not supported")
        if name.isdigit() or name == "k":
            raise Untranslatable("back-references are not supported")
        if not name or name.isalnum():
            raise Untranslatable("an unknown escape")
        return ord(name)

    def _class(self) -> str:
        negated = self._pattern.startswith("[^", self._at)
        self._at += 2 if negated else 1
        parts: list[str] = []
        while not self._pattern.startswith("]", self._at):
            if self._at >= len(self._pattern):
                raise Untranslatable("a class without an end")
            parts.append(self._member(NEGATED if negated else PLAIN))
        self._at += 1
        if not parts:
            return "(?s:.)" if negated else r"[^\x{0}-\x{10ffff}]"
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _member(self, classes: dict[str, str]) -> str:
        """Translate one member of a class: a character, a range, or a class escape."""
        first = self._endpoint(classes)
        if isinstance(first, str):
            return first
        rest = self._pattern[self._at : self._at + 2]
        if len(rest) < 2 or rest[0] != "-" or rest[1] == "]":
            return _literal(first)
        self._at += 1
        last = self._endpoint(classes)
        if isinstance(last, str):
            return _literal(first) + _literal(ord("-")) + last
        if last < first:
            raise Untranslatable("a range that ends before it starts")
        return f"{_literal(first)}-{_literal(last)}"

    def _endpoint(self, classes: dict[str, str]) -> int | str:
        if self._pattern[self._at] != "\\":
            self._at += 1
            return ord(self._pattern[self._at - 1])
        name = self._pattern[self._at + 1 : self._at + 2]
        if name and name in classes:
            self._at += 2
            return classes[name]
        return self._property() or self._escaped_code(in_class=True)
