"""The answers of one request: submitted together, and aborted together when the client disconnects."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import NoReturn

from flask import request

from edge import spending, turns
from edge.errors import as_service_error, meaning_of
from edge.gate import release_body
from edge.request_state import request_state
from engine.backend import Backend, Generation, Mailbox
from engine.errors import ModelError, ServiceError
from engine.text.grammar import GrammarMask
from engine.text.prompt_size import check_prompt_size
from engine.types import (
    Cancellation,
    ChatPrompt,
    Completion,
    DetokenizeRequest,
    GenerationRequest,
    Piece,
    Priority,
    Prompt,
    QueuePosition,
    SamplingParams,
    Spelled,
    TokenizeRequest,
)
from engine.wanted import Wanted
from routes.answer_cache import Keeping
from routes.answer_key import key_of
from routes.metering import Meter, RunMeter
from routes.services import services

# W3C. Of a later version what version 00 has is read, and more may follow.
TRACE_PARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})(?P<ids>-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"((?<!^00.{53})-.*)?"
)

Prompts = Sequence[tuple[Prompt, SamplingParams]]
Naming = Callable[[], AbstractContextManager[None]]
# By that of a client key.
PRIORITY_OF = {"high": Priority.HIGH, "normal": Priority.INTERACTIVE, "low": Priority.BATCH}


@contextmanager
def watching() -> Iterator[Wanted]:
    """Yield what ends work for this request outside of a `Run`: its client's leaving, or its deadline."""
    state = request_state()
    wanted = Wanted(state.began + services().settings.engine.request_timeout, state.account.id)
    release = services().client_watch.watch(request.environ, wanted.cancel)
    try:
        yield wanted
    finally:
        release()


def tokenized(backend: Backend, prompt: Prompt) -> list[int]:
    """Return the ids of a prompt. Its client's leaving ends the work. Raises as `Backend.tokenize` does."""
    with _counting() as who:
        return backend.tokenize(TokenizeRequest(prompt, *who))


def detokenized(backend: Backend, token_ids: Sequence[int]) -> Spelled:
    """Return the text of token ids. Its client's leaving ends the work. Raises as `Backend.detokenize` does."""
    with _counting() as who:
        return backend.detokenize(DetokenizeRequest(tuple(token_ids), *who))


@contextmanager
def _counting() -> Iterator[tuple[str, float, Cancellation]]:
    """Yield the client, the seconds that it waits at most, and what its leaving cancels."""
    state, cancellation = request_state(), Cancellation()
    turns.leave()  # it may be long
    release = services().client_watch.watch(request.environ, cancellation.cancel)
    try:
        yield state.account.id, _left(services().settings.engine.request_timeout), cancellation
    finally:
        release()


class Run:
    """One or more answers of one model to one client. `close` must be called in any case; it may be called twice.

    asked: the name that the request gave the model; naming: as the context that it is made in, for later errors. Made
    in the request's thread, inside its context, and used by that thread alone. Raises the error that the request is
    refused with; ContextTooLong before anything is submitted. A server elsewhere may refuse later: `wait_for_begin`,
    which `results` and the hook behind the view call, so that a response is prepared meanwhile.
    """

    def __init__(
        self, model: str, backend: Backend, prompts: Prompts, asked: str = "", naming: Naming = nullcontext
    ) -> None:
        state = request_state()
        self.model_id = services().model_names.shown(asked, backend.info)  # what bodies call the model
        self.served_id, self.fingerprint = backend.info.served_id, backend.info.fingerprint
        self._generations: list[Generation] = []
        self._json = [_is_of_json(sampling) for _, sampling in prompts]
        self._keeps_body = backend.info.sends_on
        self._scored = [(sampling.logprobs, sampling.echo) for _, sampling in prompts]
        self._keeping: Keeping | None = None
        self._meter = RunMeter(Meter(model, self.served_id), state.request_id, [prompt for prompt, _ in prompts])
        self._cancellation = Cancellation()
        self._observer = state.observer
        distinct = {id(prompt): prompt for prompt, _ in prompts}
        for prompt in distinct.values():
            check_prompt_size(prompt, backend.info.max_model_len)
        state.fingerprint = self.fingerprint
        self._observer.validated(model, self.served_id, len(distinct), len(prompts))
        lengths = [sampling.max_tokens for _, sampling in prompts]
        self._reservation = spending.admit(model, backend.info.max_model_len, lengths)
        self._release: Callable[[], None] | None = services().client_watch.watch(request.environ, self.abort)
        if _waits_for_others(backend, prompts):
            turns.leave()
        try:
            if not self._found(backend, prompts):
                for number, (prompt, sampling) in enumerate(prompts):
                    self._submit(backend, number, prompt, sampling)
        except BaseException as error:
            self._unwatch()
            self.abort()
            self._note(error)
            self._end()
            raise
        self._fits_context = any(sampling.fit_context for _, sampling in prompts)
        self._note_max_tokens()
        self._observer.tokenized(sum(one.prompt_tokens for one in self._generations))
        self._end_trace = self._observer.hold()
        self._naming = naming
        if not all(generation.certain for generation in self._generations):
            state.begin = self.wait_for_begin
        turns.leave()

    def __len__(self) -> int:
        return len(self._generations)

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt of the first answer has."""
        return self._generations[0].prompt_tokens

    @property
    def cost(self) -> float | None:
        """What the answers have cost, in the operator's currency, once all have ended; None without prices."""
        return self._meter.cost

    @property
    def only(self) -> Generation | None:
        """The one answer, None if there are several."""
        return self._generations[0] if len(self) == 1 else None

    def abort(self) -> None:
        """Abort every answer, also while it is being submitted; from any thread."""
        self._cancellation.cancel()
        for generation in self._generations:
            generation.abort()

    def queue_position(self) -> QueuePosition | None:
        """Return the queue position of the first answer, None once it has started."""
        return self._generations[0].queue_position()

    @property
    def scores(self) -> int:
        """How many log probabilities the answers may have: one for each token, and for each alternative to it."""
        each = zip(self._generations, self._scored, strict=True)
        return sum(one.max_tokens * (1 + asked) for one, (asked, _) in each if asked is not None)

    @property
    def prompt_scores(self) -> int:
        """How many tokens of prompts the answers begin with that have log probabilities."""
        each = zip(self._generations, self._scored, strict=True)
        return sum(one.prompt_tokens for one, (asked, echo) in each if echo and asked is not None)

    def prompt_tokens_of(self, number: int) -> int:
        """Return the number of tokens of an answer's prompt."""
        return self._generations[number].prompt_tokens

    def prompt_token_ids(self, number: int) -> list[int]:
        """Return the tokens of an answer's prompt, if the request wants them."""
        return list(self._generations[number].prompt_token_ids)

    def outlive_client(self) -> None:
        """Watch the client no longer: it may leave and come back."""
        self._unwatch()

    def close(self) -> None:
        """Abort what is not finished, and stop watching the client."""
        self._unwatch()
        self.abort()
        self._end()
        self._end_trace()

    def release_body(self) -> None:
        """Give back the room of the request's body, once the request is submitted and nothing else holds it.

        Where a server elsewhere answers, the room is kept to the end of the request: until its answer has begun, and
        longer where half an answer is asked for again, the call has what the body had, images included.
        """
        if not self._keeps_body:
            release_body(request)

    def refuse(self, error: ServiceError) -> NoReturn:
        """Abort what was submitted, since the request is refused with this error after all; raise it."""
        self._note(error)
        self.close()
        raise error

    def wait_for_begin(self) -> None:
        """Wait until it is certain that each answer begins. Raises the error of one that does not."""
        uncertain = [generation for generation in self._generations if not generation.certain]
        if uncertain:
            turns.leave()
            try:
                with self._naming():
                    for generation in uncertain:
                        generation.wait_for_begin()
            except BaseException as error:
                self._note(error)
                self.close()
                raise
            turns.take()
        self._note_max_tokens()

    def _note_max_tokens(self) -> None:
        """Have the response say how long an answer may be, where that depends on what its prompt leaves."""
        if self._fits_context:
            request_state().max_tokens = min(one.max_tokens for one in self._generations)

    def results(self) -> list[Completion]:
        """Wait for all answers and return them in order. Raises the error of the first that fails."""
        self.wait_for_begin()
        try:
            return [self._awaited(number) for number in range(len(self))]
        finally:
            self.close()

    def _awaited(self, number: int) -> Completion:
        turns.leave()
        with suppress(ServiceError):  # which `completion` raises
            self._generations[number].result()
        turns.take()
        return self.completion(number)

    def completion(self, number: int) -> Completion:
        """Return a finished answer and record it. Raises the error that it failed with."""
        try:
            return self._completion(number)
        except ServiceError as error:
            self._note(error)
            raise

    def _completion(self, number: int) -> Completion:
        completion = self._generations[number].result()
        self._reservation.narrow(number, completion.prompt_tokens, completion.output_tokens)
        if self._json[number] and completion.finish_reason == "stop":
            _check_json(completion.text)
        self._observer.answered(number, completion)
        if self._keeping is not None:
            self._keeping.ended(number, self._generations[number], completion)
        self._meter.answered(number, self._generations)
        return completion

    def pieces(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        """Yield the pieces of all answers, each with the index of its answer, and None at the end of an answer.

        After `idle` seconds without a piece, an empty one is yielded. Raises the error of the first that fails.
        """
        pieces = self._merged(idle) if len(self) > 1 else self._single(idle)
        return pieces if self._keeping is None else self._keeping.noted(pieces)

    def failed(self, error: Exception) -> ServiceError:
        """Record a failure of an answer that has started; return it as a ServiceError."""
        ours = as_service_error(error)
        meaning = meaning_of(ours)
        self._meter.failure = meaning.code
        if all(generation.done for generation in self._generations):
            self._end()
        self._observer.failed(meaning.code, meaning.status, ours.message)
        return ours

    def _unwatch(self) -> None:
        # What is watched for refers to this object, which is garbage that only a full collection finds otherwise.
        release, self._release = self._release, None
        if release is not None:
            release()

    def _note(self, error: BaseException) -> None:
        """Have what the answers used recorded as that of a request that failed."""
        if isinstance(error, ServiceError):
            self._meter.failure = meaning_of(error).code

    def _end(self) -> None:
        self._reservation.leave()
        self._meter.close(self._generations, self._reservation.release)

    def _found(self, backend: Backend, prompts: Prompts) -> bool:
        """Take the answers that an equal request has had, if they are kept; return whether they are."""
        state, cache = request_state(), services().answers
        key = key_of(backend.info, state.account.id, request.endpoint or "", prompts) if cache.enabled else None
        if key is None:
            return False
        kept = cache.find(key)
        state.cache = "miss" if kept is None else "hit"
        if kept is None:
            self._keeping = Keeping(cache, key, len(prompts))
            return False
        for number, ((prompt, sampling), one) in enumerate(zip(prompts, kept, strict=True)):
            self._observer.submitting(number, _generation_request(number, prompt, sampling, self._cancellation))
            self._generations.append(one.generation(_id_of(number)))
            self._observer.submitted(number)
        return True

    def _submit(self, backend: Backend, number: int, prompt: Prompt, sampling: SamplingParams) -> None:
        generation_request = _generation_request(number, prompt, sampling, self._cancellation)
        self._observer.submitting(number, generation_request)
        generation = backend.submit(generation_request)
        self._generations.append(generation)
        self._reservation.narrow(number, generation.prompt_tokens, generation.max_tokens)
        if self._cancellation.cancelled:  # `abort` may have come before the generation was there
            self.abort()
        self._observer.submitted(number)

    def _single(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        try:
            for piece in self._generations[0].pieces(idle):
                yield 0, piece
        except ServiceError as error:
            self._note(error)
            raise
        yield 0, None

    def _merged(self, idle: float) -> Iterator[tuple[int, Piece | None]]:
        mailbox = Mailbox()
        for number, generation in enumerate(self._generations):
            mailbox.add(number, generation, streaming=True)
        while len(mailbox):
            event = mailbox.wait(idle)
            if event is not None and event[1] is None:
                self._check_end(event[0])
            yield event or (0, Piece(""))

    def _check_end(self, number: int) -> None:
        """Raise the error that an answer has ended with, if it has, and record it."""
        try:
            self._generations[number].result()
        except ServiceError as error:
            self._note(error)
            raise


def _generation_request(
    number: int, prompt: Prompt, sampling: SamplingParams, cancellation: Cancellation
) -> GenerationRequest:
    state, limits = request_state(), services().settings.engine
    return GenerationRequest(
        request_id=_id_of(number),
        prompt=prompt,
        sampling=sampling,
        client=state.account.id,
        priority=PRIORITY_OF[state.account.priority],
        queue_timeout=_left(limits.queue_timeout),
        timeout=_left(limits.request_timeout),
        cancellation=cancellation,
        trace=state.observer.trace_parent or _own_trace(),
    )


def _left(seconds: float) -> float:
    """Return what is left of so many seconds from the request's arrival on: it may have waited for its turn."""
    return max(0.0, request_state().began + seconds - time.monotonic())


def _own_trace() -> str:
    """Return the trace context that the client sent, if it is one, for where this service does not trace itself."""
    parent = request.headers.get("traceparent", "")
    found = TRACE_PARENT.fullmatch(parent)
    if found is None:
        return ""
    return parent if found["version"] == "00" else f"00{found['ids']}-{int(found['flags'], 16) & 1:02x}"


def _id_of(number: int) -> str:
    """Return the id of an answer of the current request."""
    request_id = request_state().request_id
    return request_id if number == 0 else f"{request_id}-{number}"


def _waits_for_others(backend: Backend, prompts: Prompts) -> bool:
    """Return whether submission waits for other processes: images are decoded there, and schemas for servers tried."""
    tried = backend.info.sends_on
    return any(
        (isinstance(prompt, ChatPrompt) and prompt.images) or (tried and sampling.rules is not None)
        for prompt, sampling in prompts
    )


def _is_of_json(sampling: SamplingParams) -> bool:
    """Return whether an answer that ends by itself is JSON."""
    return isinstance(sampling.token_mask, GrammarMask) and sampling.token_mask.json


def _check_json(text: str) -> None:
    """Raise ModelError for a complete answer of a schema that is no JSON: that must not be, and would be ours."""
    try:
        json.loads(text)
    except RecursionError:  # deep, as its schema allows
        return
    except ValueError as error:
        raise ModelError("The answer does not follow its form. Please try again.") from error
