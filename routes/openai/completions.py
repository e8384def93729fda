"""POST /v1/completions: texts to continue, without a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flask import request

from edge.compression import BODIES_FULL
from edge.gate import grow_body
from engine.errors import Overloaded, ValidationError
from engine.types import Completion, Echo, Piece, Prompt, TextPrompt, TokenLogprob, TokensPrompt
from routes import sse
from routes.chat.lengths import prompt_in
from routes.chat.masks import mask_of, uncut
from routes.chat.models import find_model
from routes.chat.names import FieldNames
from routes.chat.sampling import choices
from routes.chat.toolbox import Toolbox
from routes.generation_run import Run
from routes.json_writing import event_of
from routes.openai import answers
from routes.openai.guided import guided_format
from routes.openai.requests import CompletionRequest
from routes.openai.run_response import RunResponse
from routes.openai.sampling import sampling
from routes.openai.score_room import BYTES_OF_A_PROMPT_SCORE
from routes.response_models import TextChoice, TextCompletion, TextLogprobs
from routes.services import services

NAMES = FieldNames(answer_format="structured_outputs", reasoning="", messages="prompt")
# Of a prompt that is shown, with its copy in JSON; a score with five alternatives, of which `score_room` has counted
# what is kept.
BYTES_OF_A_CHARACTER, BYTES_OF_AN_ID, BYTES_OF_A_SCORE = 4, 16, 2048
SHOWN_FREE = 256 * 1024  # bytes of these that are not counted
TOO_MUCH_SHOWN = "The prompts are too long to be shown in one piece; stream the answers, or ask for fewer."
MAX_SCORED = 16  # answers with the scores of their prompts, which take a kilobyte a token and more


def prompts_of(body: CompletionRequest) -> int:
    """Return how many texts the request has to continue."""
    return len(_prompts(body))


def submit_completion(body: CompletionRequest) -> tuple[Run, CompletionResponse]:
    """Submit texts; return their run and the response to come, which keep nothing of the body.

    Raises the ServiceError that the request is refused with.
    """
    name, backend = find_model(body.model)
    if body.max_tokens == 0 and not body.echo:
        raise ValidationError("max_tokens must be at least 1 without echo.", "max_tokens")
    prompts, fields = _prompts(body), replace(sampling(body), echo=bool(body.echo))
    if body.echo and body.logprobs is not None and len(prompts) * (body.n or 1) > MAX_SCORED:
        raise ValidationError(f"echo with logprobs is for at most {MAX_SCORED} answers of a request.", "echo")
    no_tools = Toolbox((), None, True, backend.info, NAMES)
    form = guided_format(body)
    fields = uncut(fields, form, no_tools)
    new_mask, rules = mask_of(form, no_tools, NAMES, fields, backend), None if form is None else form.rules()
    params = [
        (prompt, one)
        for prompt in prompts
        for one in choices(backend, fields, body.n or 1, body.logprobs, new_mask, rules)
    ]
    naming = partial(prompt_in, "prompt")
    with naming():
        run = Run(name, backend, params, body.model, naming)
    response = CompletionResponse(run, body, len(prompts))
    if not body.stream:
        response.check_room()
    return run, response


def _prompts(body: CompletionRequest) -> list[Prompt]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [TextPrompt(prompt)]
    if isinstance(prompt[0], int):
        return [TokensPrompt(tuple(prompt))]
    return [TextPrompt(one) if isinstance(one, str) else TokensPrompt(tuple(one)) for one in prompt]


class CompletionResponse(RunResponse):
    """The response with the answers of one run; prompts: how many prompts the run has."""

    def __init__(self, run: Run, body: CompletionRequest, prompts: int) -> None:
        super().__init__(run, body, "cmpl", "text_completion", prompts)
        self._logprobs, self._as_ids = body.logprobs is not None, bool(body.return_tokens_as_token_ids)
        self._token_ids, self._echo = bool(body.return_token_ids), bool(body.echo)
        self._bytes = 0  # that are shown of prompts in one piece

    def check_room(self) -> None:
        """Refuse, before it is computed, what could never be shown in one piece, as far as ids and scores tell.

        Raises ValidationError.
        """
        each = BYTES_OF_A_SCORE * (self._echo and self._logprobs) + BYTES_OF_AN_ID * self._token_ids
        try:
            self._check(each * sum(map(self._run.prompt_tokens_of, range(len(self._run)))))
        except ValidationError as error:
            self._run.refuse(error)

    def _check(self, shown: int) -> None:
        if shown - SHOWN_FREE > services().body_budget.most_of_one:
            raise ValidationError(TOO_MUCH_SHOWN, "echo" if self._echo else "return_token_ids")

    def whole(self, completions: Sequence[Completion]) -> TextCompletion:
        """Return the body with all answers. Raises Overloaded where there is no room for the prompts that they show."""
        answer = TextCompletion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._run.model_id,
            choices=[self._choice(index, completion) for index, completion in enumerate(completions)],
            usage=answers.usage(completions, self._prompts),
        )
        if self._run.fingerprint is not None:
            answer["system_fingerprint"] = self._run.fingerprint
        return answer

    def _choice(self, index: int, completion: Completion) -> TextChoice:
        choice = TextChoice(
            index=index,
            text=self._echoed(completion) + completion.text,
            logprobs=self._shown_whole(completion) if self._logprobs else None,
            finish_reason=answers.finish_reason(completion),
        )
        if completion.stop is not None:
            choice["stop_reason"] = completion.stop
        if self._token_ids:
            choice["token_ids"] = list(completion.token_ids)
            choice["prompt_token_ids"] = self._run.prompt_token_ids(index)
            self._take_room(BYTES_OF_AN_ID * len(choice["prompt_token_ids"]))
        return choice

    def _echoed(self, completion: Completion) -> str:
        text = _text_of(completion.echo)
        self._take_room(BYTES_OF_A_CHARACTER * len(text))
        return text

    def _take_room(self, size: int) -> None:
        """Count what is shown of prompts like a body, beyond what any answer may: it may be far longer than what was
        sent, and stands in each answer. Raises Overloaded where the budget of bodies has no room, and ValidationError
        where it never has so much for one client.
        """
        before, self._bytes = self._bytes, self._bytes + size
        self._check(self._bytes)
        more = max(0, self._bytes - SHOWN_FREE) - max(0, before - SHOWN_FREE)
        if more and not grow_body(request, more):
            raise Overloaded(BODIES_FULL)

    def _shown(self, logprobs: Sequence[TokenLogprob], echo: Echo | None) -> TextLogprobs:
        if echo is None:
            return answers.text_logprobs(logprobs, as_ids=self._as_ids)
        return answers.echo_logprobs(echo, logprobs, self._as_ids)

    def _shown_whole(self, completion: Completion) -> TextLogprobs:
        shown = self._shown(completion.logprobs, completion.echo)
        if completion.echo is not None:
            self._take_room((BYTES_OF_A_SCORE - BYTES_OF_A_PROMPT_SCORE) * len(shown["tokens"]))
        return shown

    def _events(self, idle: float) -> Iterator[bytes]:
        completions: dict[int, Completion] = {}
        before = [0] * len(self._run)
        unsaid = set(range(len(self._run))) if self._token_ids else set[int]()  # answers without an event
        plain = [self._text_events(index) for index in range(len(self._run))]
        for index, piece in self._pieces(idle):
            if piece is None:
                completion = completions[index] = self._run.completion(index)
                last = _change(index, "", reason=completion.finish_reason) | answers.stop_reason(completion)
                yield sse.event(self.chunk([last]))
            elif piece.echo or (self._logprobs and piece.logprobs) or (self._token_ids and piece.token_ids):
                change = self._change_of(index, piece, before)
                if self._token_ids:
                    change["token_ids"] = list(piece.token_ids)
                if index in unsaid:
                    unsaid.remove(index)
                    change["prompt_token_ids"] = self._run.prompt_token_ids(index)
                yield event_of(self.chunk([change]))
            elif piece.text:
                yield plain[index](piece.text)
            else:
                yield b"" if piece.token_ids else sse.KEEP_ALIVE
        yield from self._last_events(completions)

    def _change_of(self, index: int, piece: Piece, before: list[int]) -> dict[str, Any]:
        """Return the change that a piece makes. before: how long the prompt is that each answer shows."""
        if piece.echo is not None:
            text = _text_of(piece.echo)
            before[index] = len(text)
            shown = self._shown(piece.logprobs, piece.echo) if self._logprobs else None
            return _change(index, text + piece.text, shown)
        shown = None
        if piece.logprobs:
            shown = answers.text_logprobs(piece.logprobs, before[index], self._as_ids, every=self._echo)
        return _change(index, piece.text, shown)

    def _text_events(self, index: int) -> sse.TextEvents:
        return sse.TextEvents(self.chunk([_change(index, sse.TextEvents.HOLE)]))


def _text_of(echo: Echo | None) -> str:
    return "" if echo is None else echo.text


def _change(index: int, text: str, logprobs: TextLogprobs | None = None, reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
