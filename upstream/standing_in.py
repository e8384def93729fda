"""A model with two backends: one that answers, and another that stands in while the first cannot.

The other is asked where the first refuses at once. The checkpoint is asked as well, or again, where every attempt at
the upstream has failed before anything of an answer was handed to the client. What a request may ask for is told by
the checkpoint alone: that the upstream takes less is the mistake of no client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from engine.backend import Backend, Generation
from engine.errors import RetryLater, Unsupported, UpstreamFailed, forget_frames
from engine.schedule.in_flight import Wake
from engine.types import (
    BackendState,
    BackendStats,
    DetokenizeRequest,
    GenerationRequest,
    ModelInfo,
    Spelled,
    Status,
    TokenizeRequest,
    Vocabulary,
)
from upstream.backend import UpstreamBackend
from upstream.failures import LIMITS

T = TypeVar("T")


class StandingIn:
    """Backend over two. own: that of the checkpoint, whose tokens and grammars count for both."""

    def __init__(self, own: Backend, elsewhere: UpstreamBackend) -> None:
        self._own = own
        self._first: Backend
        self._second: Backend
        upstream_first = elsewhere.upstream.role == "first"
        self._first, self._second = (elsewhere, own) if upstream_first else (own, elsewhere)
        elsewhere.stand_in = own.submit

    @property
    def info(self) -> ModelInfo:
        return replace(self._own.info, identity=None, or_elsewhere=True)

    def vocabulary(self) -> Vocabulary | None:
        return self._own.vocabulary()

    def start(self) -> None:
        for one in (self._first, self._second):
            one.start()

    def submit(self, request: GenerationRequest) -> Generation:
        return self._asked(lambda one: one.submit(request))

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        return self._own.tokenize(request)

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        return self._own.detokenize(request)

    def would_refuse(self, client: str) -> RetryLater | None:
        refusal = self._first.would_refuse(client)
        return None if refusal is None or self._second.would_refuse(client) is None else refusal

    def most_at_once(self) -> int | None:
        own, elsewhere = (one.most_at_once() for one in (self._first, self._second))
        return None if own is None or elsewhere is None else own + elsewhere  # the second takes what the first refuses

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Wake) -> Generation | None:
        return self._asked(lambda one: one.submit_when_free(request, alone, wake))

    def stop_waiting(self, wake: Wake) -> None:
        for one in (self._first, self._second):
            one.stop_waiting(wake)

    def state(self) -> BackendState:
        first, second = self._first.state(), self._second.state()
        return second if first.status is not Status.READY and second.status is Status.READY else first

    def stats(self) -> BackendStats:
        own, elsewhere = self._own.stats(), (self._second if self._first is self._own else self._first).stats()
        return replace(
            own,
            num_requests_running=own.num_requests_running + elsewhere.num_requests_running,
            max_num_seqs=own.max_num_seqs + elsewhere.max_num_seqs,
            prompt_tokens_total=own.prompt_tokens_total + elsewhere.prompt_tokens_total,
            cached_tokens_total=own.cached_tokens_total + elsewhere.cached_tokens_total,
            generation_tokens_total=own.generation_tokens_total + elsewhere.generation_tokens_total,
        )

    def drain(self) -> None:
        for one in (self._first, self._second):
            one.drain()

    def stop(self, timeout: float) -> None:
        for one in (self._first, self._second):
            one.stop(timeout)

    def _asked(self, ask: Callable[[Backend], T]) -> T:
        """Return what the first says, or the second; where that refuses as well, or takes less, the first's counts.

        Raises what the first refuses with, and what the checkpoint says of the request.
        """
        try:
            return ask(self._first)
        except (RetryLater, UpstreamFailed) as error:
            refusal = error
            forget_frames(refusal)  # they hold the request, and where the second answers nobody else does it
        except LIMITS:
            if self._first is self._own:
                raise
            return ask(self._own)
        try:
            return ask(self._second)
        except (RetryLater, Unsupported):
            raise refusal from None
        except LIMITS:
            if self._second is self._own:
                raise
            raise refusal from None
