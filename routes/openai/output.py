"""What a model's text says beside its answer: a reasoning block at its start, calls of tools between its lines.

A parser is fed the text as it comes and gives out what can be told for certain; whatever is fed to it comes out again,
as one thing or another. A call that is not valid JSON, or names no tool of the request, is left in the content.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

CALL, CALL_END = "<tool_call>", "</tool_call>"
THINK, THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Content:
    """A part of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A part of what the model thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call; arguments: a JSON text, as the model wrote it."""

    id: str
    name: str
    arguments: str


Part = Content | Reasoning | Call


class OutputParser:
    """Takes one answer apart. tools: the names that may be called; thinks: whether a reasoning block may come first."""

    def __init__(self, tools: Set[str], thinks: bool) -> None:
        self._tools = tools
        self._held = ""
        self._read = self._begin if thinks else self._content
        self._fresh = False  # after a mark, whose line ends mean nothing
        self.calls = 0

    def feed(self, text: str) -> list[Part]:
        """Take the next text and return what is certain now."""
        self._held += text
        return [part for part in self._parts() if not isinstance(part, Content | Reasoning) or part.text]

    def finish(self) -> list[Part]:
        """Return what is left at the end; what was begun and not ended is content, or an unfinished thought."""
        rest, self._held = self._held, ""
        if self._read == self._reasoning:
            return [Reasoning(rest)] if rest else []
        if self.calls and not rest.strip():
            return []
        return [Content(rest)] if rest else []

    def _parts(self) -> Iterator[Part]:
        reader = None
        while reader != self._read:
            reader = self._read
            if self._fresh:
                self._held = self._held.lstrip("\n")
                self._fresh = not self._held
            yield from reader()

    def _enter(self, reader: Callable[[], Iterator[Part]], rest: str) -> None:
        self._read, self._held, self._fresh = reader, rest, True

    def _begin(self) -> Iterator[Part]:
        start = self._held.lstrip()
        if start.startswith(THINK):
            self._enter(self._reasoning, start[len(THINK) :])
        elif not THINK.startswith(start):
            self._read = self._content
        yield from ()

    def _reasoning(self) -> Iterator[Part]:
        thought, ended, rest = self._held.partition(THINK_END)
        if ended:
            self._enter(self._content, rest)
            yield Reasoning(thought.rstrip())
            return
        shown = _certain(self._held, THINK_END)
        self._held = self._held[len(shown) :]
        yield Reasoning(shown)

    def _content(self) -> Iterator[Part]:
        while self._tools and (start := self._held.find(CALL)) >= 0:
            before, (body, ended, rest) = self._held[:start], self._held[start + len(CALL) :].partition(CALL_END)
            if not ended:
                yield from self._before(before)
                self._held = self._held[start:]
                return
            call = self._call(body)
            if call is None:
                yield Content(before + CALL + body + CALL_END)
            else:
                yield from self._before(before)
                self.calls += 1
                yield call
            self._held = rest
        shown = _certain(self._held, CALL) if self._tools else self._held
        self._held = self._held[len(shown) :]
        yield Content(shown)

    def _before(self, text: str) -> Iterator[Part]:
        if text.strip():
            yield Content(text.rstrip())

    def _call(self, body: str) -> Call | None:
        try:
            called = json.loads(body)
            name, arguments = called["name"], called.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        if name not in self._tools or not isinstance(arguments, dict):
            return None
        return Call(f"call_{uuid.uuid4().hex[:24]}", name, json.dumps(arguments, ensure_ascii=False))


def _certain(text: str, token: str) -> str:
    """Return the text less an end that may be the beginning of the token, and less the blanks before that."""
    length = next((size for size in range(len(token) - 1, 0, -1) if text.endswith(token[:size])), 0)
    return text[: len(text) - length].rstrip()
