"""Reads one call as a model writes it, `{"name": ..., "arguments": {...}}`, and shows arguments as they are made."""

from __future__ import annotations

import json
from collections.abc import Set
from enum import Enum, auto

from routes.chat.json_stream import WHITE, JsonStream

MAX_KEYS = 16  # of one call, of which two mean something


class _Next(Enum):
    """What may come next, between keys and values."""

    BEGIN = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    COMMA = auto()


class CallStream:
    """One call of one of the tools.

    name: set once the text can only be a call, and from then on arguments are returned; text: all that was read before
    that; whole: the arguments are complete; done: so is the call; broken: the text is no call, or not the rest of one;
    rest: the text behind it, once it is done or broken; begun: for the caller, whether it has shown the call.
    """

    def __init__(self, tools: Set[str]) -> None:
        self.name, self.text, self.rest = "", "", ""
        self.done = self.broken = self.whole = self.begun = False
        self._tools = tools
        self._next = _Next.BEGIN
        self._part: JsonStream | None = None  # what is being read: a key, or the value of `_key`
        self._key = ""
        self._keys = 0
        self._shown = ""  # of a key or of a name, as far as it has been read
        self._name = ""
        self._arguments: str | None = None  # those that are not returned yet

    def feed(self, text: str) -> str:
        """Take the next piece and return the arguments that are certain now."""
        if not self.name:
            self.text += text
        while text and not self.done and not self.broken:
            text = self._between(text.lstrip(WHITE)) if self._part is None else self._within(self._part, text)
        self.rest = text
        return self._certain()

    def finish(self) -> str:
        """Take the end of a cut answer: return the arguments that a call whose name is known has so far."""
        self.name = self.name or self._name
        return self._certain()

    def _certain(self) -> str:
        if not self.name and self._name and (self._arguments is not None or self.done):
            self.name = self._name
        if not self.name:
            return ""
        arguments, self._arguments = self._arguments or "", ""
        return arguments

    def _between(self, text: str) -> str:
        character, wanted = text[:1], self._next
        if not character:
            return ""
        if wanted is _Next.BEGIN and character == "{":
            self._next = _Next.KEY
        elif wanted is _Next.COLON and character == ":":
            self._next = _Next.VALUE
        elif wanted is _Next.COMMA and character == ",":
            self._next = _Next.KEY
        elif wanted in (_Next.KEY, _Next.COMMA) and character == "}" and self._name:
            self._end()
        elif self._may_begin(character):
            self._part = JsonStream()
            return text
        else:
            self.broken = True
            return text
        return text[1:]

    def _may_begin(self, character: str) -> bool:
        """Return whether the next key, or the value of this one, may begin so."""
        if self._next is not _Next.VALUE:
            return self._next is _Next.KEY and character == '"' and self._keys < MAX_KEYS
        if self._key == "name":
            return character == '"' and not self._name
        return self._key != "arguments" or (character == "{" and self._arguments is None)

    def _within(self, part: JsonStream, text: str) -> str:
        shown = part.feed(text)
        if self._next is _Next.VALUE and self._key == "arguments":
            self._arguments = (self._arguments or "") + shown
        else:
            self._shown += shown
        self.broken = part.broken
        if part.done:
            self._ended()
        return part.rest

    def _ended(self) -> None:
        """A key or a value has ended."""
        shown, self._shown, self._part = self._shown, "", None
        if self._next is _Next.KEY:
            self._key, self._next = json.loads(shown), _Next.COLON
            self._keys += 1
            return
        self._next = _Next.COMMA
        if self._key == "arguments":
            self.whole = True
        elif self._key == "name":
            self._name = json.loads(shown)
            self.broken = self._name not in self._tools

    def _end(self) -> None:
        self.done = True
        if not self.whole:
            self._arguments, self.whole = "{}", True
