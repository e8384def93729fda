"""POST /v1/chat/completions: one conversation, one or more answers, whole or as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Response, g, jsonify

from engine.backend import Backend
from engine.errors import ValidationError
from engine.types import ChatPrompt, Completion, Piece
from routes.openai import answers, catalogue, streaming
from routes.openai.messages import Conversation
from routes.openai.requests import ChatRequest
from routes.openai.run import Run
from routes.openai.sampling import check_stream_options, sampling

REASONING = ("low", "medium", "high", "xhigh")


def answer(asked: ChatRequest) -> Response:
    """Answer a conversation. Raises the typed error that it is refused with or ends with."""
    name, backend = catalogue.find(asked.model)
    check_stream_options(asked)
    params = sampling(backend, asked, _logprobs(asked))
    prompt = _prompt(asked, backend)
    run = Run(name, backend, [(prompt, params)] * (asked.n or 1))
    shape = Shape(run, asked)
    if asked.stream:
        return streaming.EventStream(shape.events(), run.close).response()
    return jsonify(shape.body(run.results()))


def thinks(asked: ChatRequest) -> bool:
    """Return whether the model may reason first: as the template's own switch says, else by the effort asked for."""
    switch = asked.chat_template_kwargs.enable_thinking if asked.chat_template_kwargs is not None else None
    return asked.reasoning_effort in REASONING if switch is None else switch


def _prompt(asked: ChatRequest, backend: Backend) -> ChatPrompt:
    conversation = Conversation(asked.messages, backend.info)
    return ChatPrompt(conversation.messages, tuple(conversation.images), thinking=thinks(asked))


def _logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ValidationError("top_logprobs needs logprobs to be true.", "top_logprobs")
    return (asked.top_logprobs or 0) if asked.logprobs else None


class Shape:
    """The answers of one run in the shapes of chats."""

    def __init__(self, run: Run, asked: ChatRequest) -> None:
        self._run, self._asked = run, asked
        self._head = {"id": f"chatcmpl-{g.request_id}", "created": int(time.time()), "model": run.served_id}

    def body(self, completions: list[Completion]) -> dict[str, Any]:
        """Return the whole answer."""
        choices = [self._choice(number, completion) for number, completion in enumerate(completions)]
        head = {"id": self._head["id"], "object": "chat.completion"} | self._head
        return head | {"choices": choices, "usage": answers.usage(completions)}

    def events(self) -> Iterator[bytes]:
        """Yield the answer's events; after an error none follows, not even [DONE]."""
        try:
            yield from self._events()
        except Exception as error:
            yield streaming.error_event(self._run.failed(error))

    def _choice(self, number: int, completion: Completion) -> dict[str, Any]:
        return {
            "index": number,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": answers.chat_logprobs(completion.logprobs) if self._asked.logprobs else None,
            "finish_reason": completion.finish_reason,
        }

    def _events(self) -> Iterator[bytes]:
        completions: dict[int, Completion] = {}
        choices = [self._text_events(number) for number in range(len(self._run))]
        for number in range(len(self._run)):
            yield self._event(number, {"role": "assistant", "content": ""})
        for number, piece in self._run.pieces(streaming.KEEP_ALIVE_SECONDS):
            if piece is None:
                completion = completions[number] = self._run.completion(number)
                yield self._event(number, {}, completion.finish_reason)
            elif piece.logprobs and self._asked.logprobs:
                yield self._with_logprobs(number, piece)
            elif piece.text:
                yield choices[number](piece.text)
            elif not piece.token_ids:
                yield streaming.KEEP_ALIVE
        if self._counts:
            ordered = [completions[number] for number in range(len(self._run))]
            yield streaming.event(self._chunk([]) | {"usage": answers.usage(ordered)})
        yield streaming.DONE

    @property
    def _counts(self) -> bool:
        options = self._asked.stream_options
        return options is not None and bool(options.include_usage)

    def _with_logprobs(self, number: int, piece: Piece) -> bytes:
        return self._event(number, {"content": piece.text}, logprobs=answers.chat_logprobs(piece.logprobs))

    def _text_events(self, number: int) -> streaming.TextEvents:
        return streaming.TextEvents(self._change(number, {"content": streaming.TextEvents.HOLE}))

    def _event(self, number: int, delta: dict[str, Any], end: str | None = None, logprobs: Any = None) -> bytes:
        return streaming.event(self._change(number, delta, end, logprobs))

    def _change(
        self, number: int, delta: dict[str, Any], end: str | None = None, logprobs: Any = None
    ) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": end}
        return self._chunk([choice]) | ({"usage": None} if self._counts else {})

    def _chunk(self, choices: list[Any]) -> dict[str, Any]:
        return {"id": self._head["id"], "object": "chat.completion.chunk"} | self._head | {"choices": choices}
