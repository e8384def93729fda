"""The answers of a chat in OpenAI's shapes: one body, or a stream of events."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence, Set
from typing import Any

from edge.request_state import request_state
from engine.types import Completion, Piece, TokenLogprob
from routes import sse
from routes.generation_run import Run
from routes.openai import answers
from routes.openai.output import Call, Content, OutputParser, Part, Reasoning
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


class ChatShape:
    """Shows the answers of one run. tools: the functions they may call; thinks: whether they may begin with a thought.

    Made in the request's context; used outside of it for a stream.
    """

    def __init__(self, run: Run, asked: ChatRequest, tools: Set[str], thinks: bool) -> None:
        self._run, self._tools, self._thinks = run, tools, thinks
        self._logprobs = bool(asked.logprobs)
        self._counts = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        self._id = f"chatcmpl-{request_state().request_id}"
        self._created = int(time.time())

    def body(self, completions: Sequence[Completion]) -> ChatCompletion:
        """Return the whole answer."""
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._run.served_id,
            choices=[self._choice(number, completion) for number, completion in enumerate(completions)],
            usage=answers.usage(completions),
        )

    def events(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield the answer's events; after an error none follows, not even [DONE]. idle: seconds to a sign of life."""
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
        return shown | ({"usage": None} if self._counts else {})

    def _choice(self, number: int, completion: Completion) -> ChatChoice:
        message = self._message(completion)
        return ChatChoice(
            index=number,
            message=message,
            logprobs=answers.chat_logprobs(completion.logprobs) if self._logprobs else None,
            finish_reason=_finish_reason(completion, called="tool_calls" in message),
        )

    def _message(self, completion: Completion) -> AnswerMessage:
        parser = self._parser()
        parts = [Content(completion.text)] if parser is None else [*parser.feed(completion.text), *parser.finish()]
        content = "".join(part.text for part in parts if isinstance(part, Content))
        thought = "".join(part.text for part in parts if isinstance(part, Reasoning))
        calls = [_shown_call(part) for part in parts if isinstance(part, Call)]
        message = AnswerMessage(role="assistant", content=content if content or not calls else None, refusal=None)
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = calls
        return message

    def _parser(self) -> OutputParser | None:
        """Return what takes an answer apart, None where there can be nothing in it but the answer."""
        return OutputParser(self._tools, self._thinks) if self._tools or self._thinks else None

    def _events(self, idle: float) -> Iterator[bytes]:
        completions: dict[int, Completion] = {}
        choices = [self._choice_events(number) for number in range(len(self._run))]
        for choice in choices:
            yield choice.begin()
        for number, piece in self._run.pieces(idle):
            if piece is None:
                completions[number] = self._run.completion(number)
                yield choices[number].end(completions[number])
            elif piece.text or piece.token_ids:
                if shown := choices[number].show(piece):
                    yield shown
            else:
                yield sse.KEEP_ALIVE
        if self._counts:
            ordered = [completions[number] for number in range(len(self._run))]
            yield sse.event(self.chunk([]) | {"usage": answers.usage(ordered)})
        yield answers.DONE

    def _choice_events(self, number: int) -> _ChoiceEvents:
        parser = self._parser()
        if parser is None and not self._logprobs:
            return _ChoiceEvents(self, number)
        return _RichEvents(self, number, parser or OutputParser(frozenset(), False), self._logprobs)


class _ChoiceEvents:
    """Makes the events of one answer that is text alone."""

    def __init__(self, shape: ChatShape, number: int) -> None:
        self._shape, self._number = shape, number
        self._text = sse.TextEvents(self._change({"content": sse.TextEvents.HOLE}))

    def begin(self) -> bytes:
        """Return the first event."""
        return sse.event(self._change({"role": "assistant", "content": ""}))

    def show(self, piece: Piece) -> bytes:
        """Return the events of a piece, b"" for none."""
        return self._text(piece.text) if piece.text else b""

    def end(self, completion: Completion) -> bytes:
        """Return the last event."""
        return sse.event(self._change({}, completion.finish_reason))

    def _change(self, delta: dict[str, Any], end: str | None = None, logprobs: Any = None) -> dict[str, Any]:
        choice = {"index": self._number, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._shape.chunk([choice])


class _RichEvents(_ChoiceEvents):
    """Makes the events of one answer with log probabilities, calls or thoughts in it."""

    def __init__(self, shape: ChatShape, number: int, parser: OutputParser, logprobs: bool) -> None:
        super().__init__(shape, number)
        self._parser, self._wanted = parser, logprobs
        self._calls = 0
        self._untold: list[TokenLogprob] = []  # of tokens whose text is held back so far

    def show(self, piece: Piece) -> bytes:
        self._untold += piece.logprobs
        return self._shown(self._parser.feed(piece.text))

    def end(self, completion: Completion) -> bytes:
        rest = self._shown(self._parser.finish())
        reason = _finish_reason(completion, called=self._calls > 0)
        return rest + sse.event(self._change({}, reason, self._logprobs()))

    def _shown(self, parts: Sequence[Part]) -> bytes:
        return b"".join(sse.event(self._change(self._delta(part), logprobs=self._logprobs())) for part in parts)

    def _delta(self, part: Part) -> dict[str, Any]:
        if isinstance(part, Call):
            self._calls += 1
            return {"tool_calls": [{"index": self._calls - 1, **_shown_call(part)}]}
        return {"content" if isinstance(part, Content) else "reasoning_content": part.text}

    def _logprobs(self) -> ChatLogprobs | None:
        """Return those of the tokens since the last event, None where there are none to tell."""
        told = answers.chat_logprobs(self._untold) if self._wanted else None
        self._untold = []
        return told if told and told["content"] else None


def _shown_call(call: Call) -> ToolCall:
    return ToolCall(id=call.id, type="function", function=CalledFunction(name=call.name, arguments=call.arguments))


def _finish_reason(completion: Completion, called: bool) -> ChatFinishReason:
    """Return why an answer ended; one that was cut after a call says that it was cut."""
    reason = answers.finish_reason(completion)
    return "tool_calls" if called and reason == "stop" else reason
