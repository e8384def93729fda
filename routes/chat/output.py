"""Parses the text of a model into reasoning at its start, tool calls and the answer itself.

The parser takes the text in pieces and returns each part as soon as it is unambiguous; no text is lost. A call that is
not valid JSON, or names no tool of the request, stays in the content.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field

CALL, CALL_END = "<tool_call>", "</tool_call>"
THINK, THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins. index: among the calls of the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments; joined, they are a JSON text."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call ends. complete: False if the answer was cut in it, so that its arguments are only a beginning."""

    index: int
    complete: bool


Part = Content | Reasoning | CallBegin | CallArguments | CallEnd


@dataclass(slots=True)
class Call:
    """A call of a whole answer. arguments: a JSON text, or the beginning of one."""

    id: str
    name: str
    arguments: str = ""
    complete: bool = False


@dataclass(slots=True)
class ParsedAnswer:
    """The parts of a whole answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> ParsedAnswer:
        """Return the answer that a parser's parts make."""
        answer = cls()
        for part in parts:
            match part:
                case Content():
                    answer.content += part.text
                case Reasoning():
                    answer.reasoning += part.text
                case CallBegin():
                    answer.calls.append(Call(part.id, part.name))
                case CallArguments():
                    answer.calls[part.index].arguments += part.text
                case CallEnd():
                    answer.calls[part.index].complete = part.complete
        return answer


class OutputParser:
    """Parses one answer. tools: the functions it may call; reasoning: whether a reasoning block may come first."""

    def __init__(self, tools: Set[str], reasoning: bool) -> None:
        self._tools = tools
        self._held = ""
        self._read = self._begin if reasoning else self._content
        self._after_tag = False  # line ends after a tag are dropped
        self.calls = 0

    def feed(self, text: str) -> list[Part]:
        """Take the next piece of text and return the parts that are unambiguous now."""
        self._held += text
        return [part for part in self._parts() if not isinstance(part, Content | Reasoning) or part.text]

    def finish(self) -> list[Part]:
        """Return the rest at the end: an unfinished call is content, unfinished reasoning is reasoning."""
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
            if self._after_tag:
                self._held = self._held.lstrip("\n")
                self._after_tag = not self._held
            yield from reader()

    def _enter(self, reader: Callable[[], Iterator[Part]], rest: str) -> None:
        self._read, self._held, self._after_tag = reader, rest, True

    def _begin(self) -> Iterator[Part]:
        start = self._held.lstrip()
        if start.startswith(THINK):
            self._enter(self._reasoning, start[len(THINK) :])
        elif not THINK.startswith(start):
            self._read = self._content
        yield from ()

    def _reasoning(self) -> Iterator[Part]:
        reasoning, ended, rest = self._held.partition(THINK_END)
        if ended:
            self._enter(self._content, rest)
            yield Reasoning(reasoning.rstrip())
            return
        certain = _certain(self._held, THINK_END)
        self._held = self._held[len(certain) :]
        yield Reasoning(certain)

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
                yield from self._parts_of(*call)
            self._held = rest
        certain = _certain(self._held, CALL) if self._tools else self._held
        self._held = self._held[len(certain) :]
        yield Content(certain)

    def _before(self, text: str) -> Iterator[Part]:
        if text.strip():
            yield Content(text.rstrip())

    def _parts_of(self, name: str, arguments: str) -> Iterator[Part]:
        index, self.calls = self.calls, self.calls + 1
        yield CallBegin(index, f"call_{uuid.uuid4().hex[:24]}", name)
        yield CallArguments(index, arguments)
        yield CallEnd(index, complete=True)

    def _call(self, body: str) -> tuple[str, str] | None:
        try:
            call = json.loads(body)
            name, arguments = call["name"], call.get("arguments", {})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        if name not in self._tools or not isinstance(arguments, dict):
            return None
        return name, json.dumps(arguments, ensure_ascii=False)


def _certain(text: str, tag: str) -> str:
    """Return the text without a suffix that may be a prefix of the tag, and without the blanks before that."""
    length = next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)
    return text[: len(text) - length].rstrip()
