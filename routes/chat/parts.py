"""The parts of an answer: its text, its reasoning and its calls, as a parser makes them and as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer itself. span: where it stands in the text that the model wrote."""

    text: str
    span: range = field(default=range(0), compare=False)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the reasoning before the answer. span: as of `Content`."""

    text: str
    span: range = field(default=range(0), compare=False)


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
    """The parts of a whole answer. hidden, reasoned: as of its parser."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    hidden: list[range] = field(default_factory=list)
    reasoned: list[range] = field(default_factory=list)

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

    @property
    def called(self) -> bool:
        """Whether its calls can be made."""
        return can_be_made([call.complete for call in self.calls])


def can_be_made(complete: Sequence[bool]) -> bool:
    """Return whether the calls of an answer can be made: there are some, and each is complete."""
    return bool(complete) and all(complete)
