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
from routes.chat.pending_logprobs import PendingLogprobs
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
        told = [one for one in tokens if self.as_ids or not _is_within(hidden, one)]
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

    @property
    def reasoned(self) -> Sequence[range]:
        """Where in the text reasoning stands, once the answer has ended."""
        return ()

    def end(self, completion: Completion) -> bytes:
        """Return the last event."""
        return sse.event(self._change({}, completion.finish_reason, more=answers.stop_reason(completion)))

    def _texts(self, delta: dict[str, Any]) -> sse.TextEvents:
        return sse.TextEvents(self._change(delta))

    def _change(
        self, delta: dict[str, Any], end: str | None = None, logprobs: Any = None, more: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._chunk([choice | (more or {})])


class ParsedChoiceEvents(ChoiceEvents):
    """The events of one answer with calls, reasoning or details of its tokens."""

    def __init__(
        self, chunk: Callable[[list[Any]], dict[str, Any]], index: int, parser: OutputParser, details: Details
    ) -> None:
        super().__init__(chunk, index)
        self._parser, self._details = parser, details
        self._reasoning = self._texts({"reasoning_content": HOLE})
        self._arguments = self._text  # of the call that is being written
        self._pending = PendingLogprobs()
        self._pending_ids: list[int] = []

    def show(self, piece: Piece) -> bytes:
        self._pending.add(piece.logprobs)
        self._pending_ids += piece.token_ids
        return self._shown(self._parser.feed(piece.text))

    @property
    def reasoned(self) -> Sequence[range]:
        return self._parser.reasoned

    def end(self, completion: Completion) -> bytes:
        rest = self._shown(self._parser.finish())
        reason = finish_reason(completion, self._parser.called)
        stopped = answers.stop_reason(completion)
        return rest + event_of(self._detailed({}, self._pending.take_until(math.inf), reason, stopped))

    def _shown(self, parts: Sequence[Part]) -> bytes:
        if not self._details:
            return b"".join([self._event(part) for part in parts])
        ends = _ends(parts, self._parser.settled)
        return b"".join([self._with_details(part, end) for part, end in zip(parts, ends, strict=True)])

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

    def _with_details(self, part: Part, end: int) -> bytes:
        """Return the events of a part with the details of the tokens since the last one.

        end: where a call's tokens end. A text has its own tokens alone; those in front of it have an event of theirs.
        """
        if isinstance(part, CallEnd):
            return b""
        if isinstance(part, CallBegin | CallArguments):
            return event_of(self._detailed(_delta(part), self._pending.take_until(end)))
        before, own = self._pending.take(part.span)
        apart = event_of(self._detailed({}, before)) if self._told(before) is not None else b""
        return apart + event_of(self._detailed(_delta(part), own))

    def _detailed(
        self,
        delta: dict[str, Any],
        tokens: Sequence[TokenLogprob],
        end: str | None = None,
        stopped: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the object of an event with the details of some tokens, and the ids since the last one.

        stopped: the field that says which stop string ended the answer.
        """
        more = {"token_ids": self._pending_ids} if self._details.token_ids else {}
        self._pending_ids = []
        return self._change(delta, end, self._told(tokens), more | (stopped or {}))

    def _told(self, tokens: Sequence[TokenLogprob]) -> ChatLogprobs | None:
        logprobs = self._details.shown(tokens, self._parser.hidden)
        return logprobs if logprobs is not None and logprobs["content"] else None


def _ends(parts: Sequence[Part], settled: int) -> list[int]:
    """Return where the tokens end that each part's event has if it is a call's: where the next text begins.

    settled: up to where it is known what is shown.
    """
    ends = []
    for part in reversed(parts):
        settled = part.span.start if isinstance(part, Content | Reasoning) else settled
        ends.append(settled)
    return ends[::-1]


def _is_within(spans: Sequence[range], token: TokenLogprob) -> bool:
    """Return whether one of some spans, which are in order, has all of a token."""
    before = bisect_right(spans, token.offset, key=lambda span: span.start)
    return (
        before > 0 and token.offset in spans[before - 1] and token.offset + len(token.token) <= spans[before - 1].stop
    )


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
