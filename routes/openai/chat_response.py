"""The response to a chat request: one body, or a stream of events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from edge.request_state import request_state
from engine.types import Completion, Piece, TokenLogprob
from routes import sse
from routes.chat.output import Call, CallArguments, CallBegin, CallEnd, Content, OutputParser, Part, Reasoning
from routes.chat.task import ChatRun
from routes.openai import answers
from routes.openai.requests import ChatRequest
from routes.response_models import (
    AnswerMessage,
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatFinishReason,
    ChatLogprobs,
    ToolCall,
)


class ChatResponse:
    """The response with the answers of one run. Made inside the request's context; streams are sent outside of it."""

    def __init__(self, chat: ChatRun, body: ChatRequest) -> None:
        self._chat, self._run = chat, chat.run
        self._logprobs = bool(body.logprobs)
        self._include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        self._id = f"chatcmpl-{request_state().request_id}"
        self._created = int(time.time())

    def whole(self, completions: Sequence[Completion]) -> ChatCompletion:
        """Return the body with all answers."""
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._run.served_id,
            choices=[self._choice(index, completion) for index, completion in enumerate(completions)],
            usage=answers.usage(completions),
        )

    def events(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield the events of the stream; an error is the last one, without [DONE]. idle: seconds to a keep-alive."""
        try:
            yield from self._events(idle)
        except Exception as error:
            yield answers.error_event(self._run.failed(error))

    def chunk(self, choices: list[Any]) -> dict[str, Any]:
        """Return the object of one event."""
        shown = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._run.served_id,
            "choices": choices,
        }
        return shown | ({"usage": None} if self._include_usage else {})

    def _choice(self, index: int, completion: Completion) -> ChatChoice:
        message = self._message(completion)
        return ChatChoice(
            index=index,
            message=message,
            logprobs=answers.chat_logprobs(completion.logprobs) if self._logprobs else None,
            finish_reason=_finish_reason(completion, called="tool_calls" in message),
        )

    def _message(self, completion: Completion) -> AnswerMessage:
        answer = self._chat.parsed(completion)
        calls = [_shown_call(call) for call in answer.calls]
        message = AnswerMessage(
            role="assistant", content=answer.content if answer.content or not calls else None, refusal=None
        )
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if calls:
            message["tool_calls"] = calls
        return message

    def _events(self, idle: float) -> Iterator[bytes]:
        completions: dict[int, Completion] = {}
        choices = [self._choice_events(index) for index in range(len(self._run))]
        for choice in choices:
            yield choice.begin()
        for index, piece in self._run.pieces(idle):
            if piece is None:
                completions[index] = self._run.completion(index)
                yield choices[index].end(completions[index])
            elif piece.text or piece.token_ids:
                if events := choices[index].show(piece):
                    yield events
            else:
                yield sse.KEEP_ALIVE
        if self._include_usage:
            ordered = [completions[index] for index in range(len(self._run))]
            yield sse.event(self.chunk([]) | {"usage": answers.usage(ordered)})
        yield answers.DONE

    def _choice_events(self, index: int) -> _ChoiceEvents:
        if self._chat.plain and not self._logprobs:
            return _ChoiceEvents(self, index)
        return _ParsedChoiceEvents(self, index, self._chat.new_parser(), self._logprobs)


class _ChoiceEvents:
    """The events of one answer that consists of text alone."""

    def __init__(self, response: ChatResponse, index: int) -> None:
        self._response, self._index = response, index
        self._text = sse.TextEvents(self._change({"content": sse.TextEvents.HOLE}))

    def begin(self) -> bytes:
        """Return the first event."""
        return sse.event(self._change({"role": "assistant", "content": ""}))

    def show(self, piece: Piece) -> bytes:
        """Return the events for a piece, b"" if there are none."""
        return self._text(piece.text) if piece.text else b""

    def end(self, completion: Completion) -> bytes:
        """Return the last event."""
        return sse.event(self._change({}, completion.finish_reason))

    def _change(self, delta: dict[str, Any], end: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._response.chunk([choice])


class _ParsedChoiceEvents(_ChoiceEvents):
    """The events of one answer with log probabilities, calls or reasoning."""

    def __init__(self, response: ChatResponse, index: int, parser: OutputParser, logprobs: bool) -> None:
        super().__init__(response, index)
        self._parser, self._with_logprobs = parser, logprobs
        self._called = False
        self._pending: list[TokenLogprob] = []  # of tokens whose text the parser holds back

    def show(self, piece: Piece) -> bytes:
        self._pending += piece.logprobs
        return self._shown(self._parser.feed(piece.text))

    def end(self, completion: Completion) -> bytes:
        rest = self._shown(self._parser.finish())
        reason = _finish_reason(completion, called=self._called)
        return rest + sse.event(self._change({}, reason, self._logprobs()))

    def _shown(self, parts: Sequence[Part]) -> bytes:
        shown = [part for part in parts if not isinstance(part, CallEnd)]
        return b"".join(sse.event(self._change(self._delta(part), logprobs=self._logprobs())) for part in shown)

    def _delta(self, part: Content | Reasoning | CallBegin | CallArguments) -> dict[str, Any]:
        match part:
            case CallBegin():
                self._called = True
                return {"tool_calls": [{"index": part.index, **_shown_call(Call(part.id, part.name))}]}
            case CallArguments():
                return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}
            case Content():
                return {"content": part.text}
            case Reasoning():
                return {"reasoning_content": part.text}

    def _logprobs(self) -> ChatLogprobs | None:
        """Return the log probabilities of the tokens since the last event, None if there are none."""
        logprobs = answers.chat_logprobs(self._pending) if self._with_logprobs else None
        self._pending = []
        return logprobs if logprobs and logprobs["content"] else None


def _shown_call(call: Call) -> ToolCall:
    return ToolCall(id=call.id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))


def _finish_reason(completion: Completion, called: bool) -> ChatFinishReason:
    """Return why an answer ended: a call counts only if the answer was not cut by its length."""
    reason = answers.finish_reason(completion)
    return "tool_calls" if called and reason == "stop" else reason
