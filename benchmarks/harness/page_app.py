"""The service for `page_latency`, with models whose tokens are their times of emission in milliseconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from app_production import create_app
from config import settings_or_exit
from engine.backend import Generation
from engine.types import (
    BackendState,
    BackendStats,
    Completion,
    DetokenizeRequest,
    GenerationRequest,
    ModelInfo,
    Piece,
    Spelled,
    Status,
    Timings,
    TokenizeRequest,
)
from models import ModelSet

SECONDS_A_TOKEN = float(os.environ.get("SECONDS_A_TOKEN", "0.04"))


class StampingBackend:
    """Emits tokens that are time stamps from a thread of its own, as the engine does."""

    def __init__(self, name: str) -> None:
        self.info = ModelInfo(name, name, name == "avision", False, 4096)

    def start(self) -> None:
        """Load nothing."""

    def submit(self, request: GenerationRequest) -> Generation:
        stopped = threading.Event()
        generation = Generation(request.request_id, 1, time.monotonic() + request.timeout, stopped.set)
        arguments = (generation, request.sampling.max_tokens, stopped)
        threading.Thread(target=_stamp, args=arguments, daemon=True).start()
        return generation

    def vocabulary(self) -> None:
        """There are no tokens, so there are no grammars."""

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        """Every prompt is one token."""
        return [1]

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        """The one token has no text."""
        return Spelled("", ("",) * len(request.token_ids))

    def would_refuse(self, client: str) -> None:
        """There is always capacity."""

    def most_at_once(self) -> None:
        """There is no bound."""

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Callable[[], None]) -> Generation:
        """There is always capacity."""
        return self.submit(request)

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        """No batch ever waits."""

    def state(self) -> BackendState:
        return BackendState(Status.READY)

    def stats(self) -> BackendStats:
        return BackendStats()

    def drain(self) -> None:
        """There is nothing to drain."""

    def stop(self, timeout: float) -> None:
        """There is nothing to wait for."""


def _stamp(generation: Generation, tokens: int, stopped: threading.Event) -> None:
    for _ in range(tokens):
        if stopped.wait(SECONDS_A_TOKEN):
            break
        generation.push(Piece(f" {1000 * time.time():.2f}", (1,)))
    generation.finish(Completion("", "stop", 1, tokens, Timings(0.0, SECONDS_A_TOKEN, tokens * SECONDS_A_TOKEN)))


app = create_app(settings_or_exit(), ModelSet({name: StampingBackend(name) for name in ("avibe", "avision")}))
