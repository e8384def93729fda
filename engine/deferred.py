"""A backend that is built when it is started, so that the process can answer before torch is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from engine.backend import Backend, Generation
from engine.errors import Message, NotReady, RetryLater
from engine.types import (
    BackendState,
    BackendStats,
    DetokenizeRequest,
    GenerationRequest,
    ModelInfo,
    Progress,
    Spelled,
    Status,
    TokenizeRequest,
    Vocabulary,
)

FAILED = NotReady(Message("not_loadable", "The model could not be loaded."))
NOT_LOADED = NotReady(Message("loading", "The model is still loading; try again later."))
WAITING = Progress(Message("stage_waiting", "waiting"))
STARTING = Progress(Message("stage_starting", "starting"))
OTHERS_LOAD = Message("stage_others", "waiting for the other models")


class DeferredBackend:
    """Proxy for the backend that `build` makes: LOADING before, that backend itself afterwards.

    info: what is known of the model before it is loaded. is_open: whether it may serve once it is started; it may not
    while another model loads, since loading takes the device's memory and time.
    """

    def __init__(
        self, info: ModelInfo, build: Callable[[], Backend], is_open: Callable[[], bool] = lambda: True
    ) -> None:
        self._info = info
        self._build, self._is_open = build, is_open
        self._backend: Backend | None = None
        self._begun = self._started = False
        self._draining = False
        self._failed = False

    @property
    def info(self) -> ModelInfo:
        return self._info if self._backend is None else self._backend.info

    def vocabulary(self) -> Vocabulary | None:
        return None if self._backend is None else self._backend.vocabulary()

    def start(self) -> None:
        """Build the backend and start it. Raises StartError."""
        self._begun, self._failed = True, False
        try:
            self._backend = self._build()
            self._backend.start()
        except BaseException:
            self._failed, self._backend = True, None  # which gives back what it holds
            raise
        self._started = True
        if self._draining:
            self._backend.drain()

    def submit(self, request: GenerationRequest) -> Generation:
        return self._opened().submit(request)

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        return self._opened().tokenize(request)

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        return self._opened().detokenize(request)

    def would_refuse(self, client: str) -> RetryLater | None:
        if self._failed:
            return FAILED
        return NOT_LOADED if self._backend is None or not self._is_open() else self._backend.would_refuse(client)

    def most_at_once(self) -> int | None:
        return None if self._backend is None else self._backend.most_at_once()

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Callable[[], None]) -> Generation | None:
        return self._opened().submit_when_free(request, alone, wake)

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        if self._backend is not None:
            self._backend.stop_waiting(wake)

    def state(self) -> BackendState:
        if self._failed:
            return BackendState(Status.DEAD, "The model could not be loaded.", restart_needed=True)
        if self._draining and not self._started:
            return BackendState(Status.DRAINING, "The service is stopping.")
        if self._backend is None:
            return BackendState(Status.LOADING, progress=STARTING if self._begun else WAITING)
        state = self._backend.state()
        if state.status is Status.READY and not self._is_open():
            return BackendState(Status.LOADING, progress=replace(state.progress or WAITING, stage=OTHERS_LOAD))
        return state

    def stats(self) -> BackendStats:
        return BackendStats() if self._backend is None else self._backend.stats()

    def drain(self) -> None:
        self._draining = True
        if self._started and self._backend is not None:
            self._backend.drain()

    def stop(self, timeout: float) -> None:
        """Stop the backend; a load cannot be interrupted and ends with the process."""
        self.drain()
        if self._started and self._backend is not None:
            self._backend.stop(timeout)

    def _opened(self) -> Backend:
        if self._failed:
            raise NotReady(FAILED.message)
        if self._backend is None or not self._is_open():
            raise NotReady(NOT_LOADED.message)
        return self._backend
