"""POST /v1/completions: texts to be continued, without a chat template."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from flask import Response, jsonify

from edge.request_state import request_state
from engine.backend import Backend
from engine.errors import ContextTooLong
from engine.types import Completion, Piece, Prompt, TextPrompt, TokensPrompt
from routes import sse
from routes.generation_run import Run
from routes.openai import answers, catalogue
from routes.openai.messages import LONGEST_TOKEN
from routes.openai.requests import CompletionRequest
from routes.openai.sampling import check_stream_options, choices
from routes.response_models import TextChoice, TextCompletion, TextLogprobs


def cost(asked: CompletionRequest) -> int:
    """Return how many answers are asked for."""
    return len(_prompts(asked)) * (asked.n or 1)


def answer(asked: CompletionRequest) -> Response:
    """Continue texts. Raises the typed error that the request is refused with or ends with."""
    name, backend = catalogue.find(asked.model)
    check_stream_options(asked)
    prompts = _prompts(asked)
    _check_lengths(prompts, backend)
    wanted = [(prompt, params) for prompt in prompts for params in choices(backend, asked, asked.logprobs)]
    run = Run(name, backend, wanted)
    shape = CompletionShape(run, asked, len(prompts))
    if asked.stream:
        return sse.EventStream(shape.events(), run.close).response()
    return jsonify(shape.body(run.results()))


def _prompts(asked: CompletionRequest) -> list[Prompt]:
    prompt = asked.prompt
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if isinstance(prompt[0], int):
        return [TokensPrompt(tuple(prompt))]
    return [TextPrompt(one) if isinstance(one, str) else TokensPrompt(tuple(one)) for one in prompt]


def _check_lengths(prompts: Sequence[Prompt], backend: Backend) -> None:
    """Raise ContextTooLong for a text that no context could hold, before it is tokenized."""
    most = backend.info.max_model_len
    if any(isinstance(prompt, TextPrompt) and len(prompt.text) > LONGEST_TOKEN * most for prompt in prompts):
        raise ContextTooLong(f"The prompt is too long for this model's context of {most} tokens.", "prompt")


class CompletionShape:
    """The answers of one run in the shapes of plain completions."""

    def __init__(self, run: Run, asked: CompletionRequest, prompts: int) -> None:
        self._run, self._prompts = run, prompts
        self._logprobs = asked.logprobs is not None
        self._counts = asked.stream_options is not None and bool(asked.stream_options.include_usage)
        self._id, self._created = f"cmpl-{request_state().request_id}", int(time.time())

    def body(self, completions: Sequence[Completion]) -> TextCompletion:
        """Return the whole answer."""
        return TextCompletion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._run.served_id,
            choices=[self._choice(number, completion) for number, completion in enumerate(completions)],
            usage=answers.usage(completions, self._prompts),
        )

    def events(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield the answer's events; after an error none follows, not even [DONE]. idle: seconds to a sign of life."""
        try:
            yield from self._events(idle)
        except Exception as error:
            yield answers.error_event(self._run.failed(error))

    def _choice(self, number: int, completion: Completion) -> TextChoice:
        return TextChoice(
            index=number,
            text=completion.text,
            logprobs=answers.text_logprobs(completion.logprobs, 0) if self._logprobs else None,
            finish_reason=answers.finish_reason(completion),
        )

    def _events(self, idle: float) -> Iterator[bytes]:
        completions: dict[int, Completion] = {}
        plain = [self._text_events(number) for number in range(len(self._run))]
        offsets = [0] * len(self._run)
        for number, piece in self._run.pieces(idle):
            if piece is None:
                completion = completions[number] = self._run.completion(number)
                yield sse.event(self._chunk([_change(number, "", reason=completion.finish_reason)]))
            elif self._logprobs and piece.logprobs:
                yield self._with_logprobs(number, piece, offsets)
            elif piece.text:
                yield plain[number](piece.text)
            elif not piece.token_ids:
                yield sse.KEEP_ALIVE
        if self._counts:
            ordered = [completions[number] for number in range(len(self._run))]
            yield sse.event(self._chunk([]) | {"usage": answers.usage(ordered, self._prompts)})
        yield answers.DONE

    def _with_logprobs(self, number: int, piece: Piece, offsets: list[int]) -> bytes:
        told = answers.text_logprobs(piece.logprobs, offsets[number])
        offsets[number] += len(piece.text)
        return sse.event(self._chunk([_change(number, piece.text, told)]))

    def _text_events(self, number: int) -> sse.TextEvents:
        return sse.TextEvents(self._chunk([_change(number, sse.TextEvents.HOLE)]))

    def _chunk(self, choices: list[Any]) -> dict[str, Any]:
        """Return the object of one event."""
        shown = {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._run.served_id,
            "choices": choices,
        }
        return shown | ({"usage": None} if self._counts else {})


def _change(number: int, text: str, logprobs: TextLogprobs | None = None, reason: str | None = None) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
