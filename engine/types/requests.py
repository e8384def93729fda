"""Requests to a backend. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from engine.types.prompts import Prompt
from engine.types.sampling import SamplingParams


class Priority(IntEnum):
    """Which requests start first; a lower value goes first."""

    HIGH = -1
    INTERACTIVE = 0
    BATCH = 1


class Cancellation:
    """Whether the answers to a request are still wanted; its work before the queue ends once they are not.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two fields below
        self._cancelled = False
        self._calls: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """True once `cancel` has been called."""
        return self._cancelled

    def cancel(self) -> None:
        """Want no answer any longer."""
        with self._lock:
            self._cancelled = True
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    @contextmanager
    def notifying(self, call: Callable[[], None]) -> Iterator[None]:
        """Have `call` called by `cancel` meanwhile, at once if that has happened already; it must not block."""
        with self._lock:
            cancelled = self._cancelled
            if not cancelled:
                self._calls.append(call)
        if cancelled:
            call()
        try:
            yield
        finally:
            with self._lock:
                if call in self._calls:
                    self._calls.remove(call)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one answer. Times are in seconds from `submit`.

    client: the key or address between which capacity is shared fairly. queue_timeout: how long it may wait in the
    queue; timeout: how long it may take in total. cancellation: ends the work of `submit`. trace: the W3C trace context
    (`traceparent`) that a server which answers for the model is told, "" for none.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    client: str = ""
    priority: Priority = Priority.INTERACTIVE
    queue_timeout: float = 30.0
    timeout: float = 300.0
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)
    trace: str = ""


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A prompt whose tokens are asked for, and no answer. The other fields are those of `GenerationRequest`."""

    prompt: Prompt
    client: str = ""
    timeout: float = 300.0
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    """Token ids whose text is asked for. The other fields are those of `GenerationRequest`."""

    token_ids: tuple[int, ...]
    client: str = ""
    timeout: float = 300.0
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)
