"""The events of one answer of a chat's stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from engine.types import Completion, Piece, TokenLogprob
from routes import sse
from routes.chat.output import Call, CallArguments, CallBegin, CallEnd, Content, OutputParser, Part, Reasoning
from routes.openai import answers
from routes.response_models import CalledFunction, ChatFinishReason, ChatLogprobs, ToolCall

HOLE = sse.TextEvents.HOLE


class ChoiceEvents:
    """The events of one answer that consists of text alone. chunk: makes the object of an event from its choices."""

    def __init__(self, chunk: Callable[[list[Any]], dict[str, Any]], index: int) -> None:
        self._chunk, self._index = chunk, index
        self._text = self._texts({"content": HOLE})

    def begin(self) -> bytes:
        """Return the first event."""
        return sse.event(self._change({"role": "assistant", "content": ""}))

    def show(self, piece: Piece) -> bytes:
        """Return the events for a piece, b"" if there are none."""
        return self._text(piece.text) if piece.text else b""

    def end(self, completion: Completion) -> bytes:
        """Return the last event."""
        return sse.event(self._change({}, completion.finish_reason))

    def _texts(self, delta: dict[str, Any]) -> sse.TextEvents:
        return sse.TextEvents(self._change(delta))

    def _change(self, delta: dict[str, Any], end: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._chunk([choice])


class ParsedChoiceEvents(ChoiceEvents):
    """The events of one answer with log probabilities, calls or reasoning."""

    def __init__(
        self, chunk: Callable[[list[Any]], dict[str, Any]], index: int, parser: OutputParser, logprobs: bool
    ) -> None:
        super().__init__(chunk, index)
        self._parser, self._with_logprobs = parser, logprobs
        self._reasoning = self._texts({"reasoning_content": HOLE})
        self._arguments = self._text  # of the call that is being written
        self._complete: list[bool] = []  # of each call that has ended
        self._pending: list[TokenLogprob] = []  # of tokens whose text the parser holds back

    def show(self, piece: Piece) -> bytes:
        self._pending += piece.logprobs
        return self._shown(self._parser.feed(piece.text))

    def end(self, completion: Completion) -> bytes:
        rest = self._shown(self._parser.finish())
        reason = finish_reason(completion, bool(self._complete) and all(self._complete))
        return rest + sse.event(self._change({}, reason, self._logprobs()))

    def _shown(self, parts: Sequence[Part]) -> bytes:
        show = self._with_logprob if self._with_logprobs else self._event
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
                self._complete.append(part.complete)
                return b""

    def _with_logprob(self, part: Part) -> bytes:
        if isinstance(part, CallEnd):
            return self._event(part)
        return sse.event(self._change(_delta(part), logprobs=self._logprobs()))

    def _logprobs(self) -> ChatLogprobs | None:
        """Return the log probabilities of the tokens since the last event, None if there are none."""
        logprobs = answers.chat_logprobs(self._pending) if self._with_logprobs else None
        self._pending = []
        return logprobs if logprobs and logprobs["content"] else None


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
    """Return why an answer ended. called: whether it has calls, and each is complete, so that they can be made."""
    reason = answers.finish_reason(completion)
    return "tool_calls" if called and reason == "stop" else reason
