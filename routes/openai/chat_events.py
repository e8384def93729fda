"""The events of one answer of a chat's stream."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.types import Completion, Piece, TokenLogprob
from routes import sse
from routes.chat.output import Call, CallArguments, CallBegin, CallEnd, Content, OutputParser, Part, Reasoning
from routes.chat.reasoning_tokens import ReasoningTokens
from routes.json_writing import event_of
from routes.openai import answers
from routes.response_models import CalledFunction, ChatFinishReason, ChatLogprobs, ToolCall

HOLE = sse.TextEvents.HOLE


@dataclass(frozen=True, slots=True)
class Details:
    """What a request wants to see of the tokens: log probabilities, by text or by id, and their ids."""

    logprobs: bool
    token_ids: bool
    as_ids: bool

    def __bool__(self) -> bool:
        return self.logprobs or self.token_ids

    def shown(self, tokens: Sequence[TokenLogprob], hidden: Sequence[range]) -> ChatLogprobs | None:
        """Return log probabilities as bodies show them, None if they are not wanted.

        hidden: where the text is not shown; by their ids, all tokens are.
        """
        if not self.logprobs:
            return None
        told = [one for one in tokens if self.as_ids or not _is_in(hidden, one.offset)]
        return answers.chat_logprobs(told, self.as_ids)


class ChoiceEvents:
    """The events of one answer that consists of text alone. chunk: makes the object of an event from its choices."""

    def __init__(self, chunk: Callable[[list[Any]], dict[str, Any]], index: int) -> None:
        self._chunk, self._index = chunk, index
        self._text = self._texts({"content": HOLE})

    def begin(self, more: dict[str, Any]) -> bytes:
        """Return the first event. more: further fields of its object."""
        return sse.event(self._change({"role": "assistant", "content": ""}) | more)

    def show(self, piece: Piece) -> bytes:
        """Return the events for a piece, b"" if there are none."""
        return self._text(piece.text) if piece.text else b""

    def end(self, completion: Completion) -> bytes:
        """Return the last event."""
        return sse.event(self._change({}, completion.finish_reason))

    def _texts(self, delta: dict[str, Any]) -> sse.TextEvents:
        return sse.TextEvents(self._change(delta))

    def _change(
        self, delta: dict[str, Any], end: str | None = None, logprobs: Any = None, more: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._chunk([choice | (more or {})])


class ParsedChoiceEvents(ChoiceEvents):
    """The events of one answer with calls, reasoning or details of its tokens. reasoning: what counts its tokens."""

    def __init__(
        self,
        chunk: Callable[[list[Any]], dict[str, Any]],
        index: int,
        parser: OutputParser,
        details: Details,
        reasoning: ReasoningTokens,
    ) -> None:
        super().__init__(chunk, index)
        self._parser, self._details, self._counted = parser, details, reasoning
        self._reasoning = self._texts({"reasoning_content": HOLE})
        self._arguments = self._text  # of the call that is being written
        self._pending: list[TokenLogprob] = []  # of tokens whose text the parser holds back
        self._pending_ids: list[int] = []

    def show(self, piece: Piece) -> bytes:
        self._pending += piece.logprobs
        self._pending_ids += piece.token_ids
        return self._shown(self._counted.feed(self._parser, piece.text, len(piece.token_ids)))

    def end(self, completion: Completion) -> bytes:
        rest = self._shown(self._parser.finish())
        reason = finish_reason(completion, self._parser.called)
        return rest + event_of(self._detailed({}, reason, math.inf))

    def _shown(self, parts: Sequence[Part]) -> bytes:
        show = self._with_details if self._details else self._event
        return b"".join([show(part) for part in parts])

    def _event(self, part: Part) -> bytes:
        match part:
            case CallArguments():
                return self._arguments(part.text)
            case Content():
                return self._text(part.text)
            case Reasoning():
                return self._reasoning(part.text)
            case CallBegin():
                self._arguments = self._texts(_delta(CallArguments(part.index, HOLE)))
                return sse.event(self._change(_delta(part)))
            case CallEnd():
                return b""

    def _with_details(self, part: Part) -> bytes:
        return self._event(part) if isinstance(part, CallEnd) else event_of(self._detailed(_delta(part)))

    def _detailed(self, delta: dict[str, Any], end: str | None = None, until: float | None = None) -> dict[str, Any]:
        """Return the object of an event with the details of the tokens since the last one.

        until: up to where in the text log probabilities are shown, None for as far as it is settled.
        """
        settled = self._parser.settled if until is None else until
        ready = [one for one in self._pending if one.offset < settled]
        logprobs = self._details.shown(ready, self._parser.hidden)
        more = {"token_ids": self._pending_ids} if self._details.token_ids else {}
        self._pending = [one for one in self._pending if one.offset >= settled]
        self._pending_ids = []
        return self._change(delta, end, logprobs if logprobs and logprobs["content"] else None, more)


def _is_in(spans: Sequence[range], offset: int) -> bool:
    """Return whether one of some spans, which are in order, has a position."""
    before = bisect_right(spans, offset, key=lambda span: span.start)
    return before > 0 and offset in spans[before - 1]


def _delta(part: Content | Reasoning | CallBegin | CallArguments) -> dict[str, Any]:
    match part:
        case CallBegin():
            return {"tool_calls": [{"index": part.index, **shown_call(Call(part.id, part.name))}]}
        case CallArguments():
            return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
        case Content():
            return {"content": part.text}
        case Reasoning():
            return {"reasoning_content": part.text}


def shown_call(call: Call) -> ToolCall:
    """Return a call as bodies and streams show it."""
    return ToolCall(id=call.id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))


def finish_reason(completion: Completion, called: bool) -> ChatFinishReason:
    """Return why an answer ended. called: whether it has calls that can be made."""
    reason = answers.finish_reason(completion)
    return "tool_calls" if called and reason == "stop" else reason
