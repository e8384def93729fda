"""The models of the service under their names: loaded, drained and stopped together."""

from __future__ import annotations

import functools
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Protocol

from config import Upstream
from engine.backend import Backend
from engine.errors import StartError, forget_frames
from engine.text.grammar_trials import NoTrials, Trials
from engine.text.image_decoder import ImageDecoder, InProcessDecoder
from engine.types import BackendState, ServerReport, Status, is_further


class Servers(Protocol):
    """The servers of an upstream; `upstream.backend.UpstreamBackend`."""

    @property
    def upstream(self) -> Upstream:
        """What the settings say of them."""

    def reports(self) -> list[ServerReport]:
        """Return what is known of each, in the order of the settings."""

    def use_key(self, key: str) -> None:
        """Send another key with each later request."""


log = logging.getLogger("avito_ai.loading")


class ModelSet:
    """The models by name, loaded one after another; servers elsewhere beside them. Safe to use from any thread.

    check: called before the first is loaded; it raises StartError where that is foreseen to fail. image_decoder,
    grammar_trials: of all images and grammars of the service; they start before the models and stop after them.
    overlapping: set before the start where another copy is still in memory, so that the room kept for one counts as
    used. before_ready: called once all models are loaded, before the first request. upstreams: what is known of the
    servers elsewhere, by the model that they answer for.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[], None] = lambda: None,
        image_decoder: ImageDecoder | None = None,
        grammar_trials: Trials | None = None,
        upstreams: Mapping[str, Servers] | None = None,
    ) -> None:
        self._backends = dict(backends)
        self._clock, self._check = clock, check
        self.image_decoder = image_decoder or InProcessDecoder()
        self.grammar_trials = grammar_trials or NoTrials()
        self.upstreams = dict(upstreams or {})
        self._stopping = threading.Event()
        self._stop_announced = False
        self.overlapping = False
        self.before_ready: Callable[[], None] = lambda: None
        self.loaded = False  # all models; before, none of them serves
        self._loader: threading.Thread | None = None
        self._began: dict[str, float] = {}  # when the load of each model did, by the clock

    def __iter__(self) -> Iterator[tuple[str, Backend]]:
        return iter(self._backends.items())

    def get(self, name: str) -> Backend:
        """Return the model of this name. Raises KeyError."""
        return self._backends[name]

    def states(self) -> dict[str, BackendState]:
        """Return the state of each model; never blocks."""
        return {name: self._shown(name, backend.state()) for name, backend in self}

    def server_reports(self) -> dict[str, list[ServerReport]]:
        """Return what is known of each server elsewhere, by the model that it answers for."""
        return {name: one.reports() for name, one in self.upstreams.items()}

    def deciding_states(self) -> dict[str, BackendState]:
        """Return the states that decide on the service's own: not those of further versions."""
        return {name: state for name, state in self.states().items() if not is_further(name)}

    @property
    def ready(self) -> bool:
        """True while every model takes requests; a further version need not."""
        return all(state.status is Status.READY for state in self.deciding_states().values())

    @property
    def idle(self) -> bool:
        """True while no model has an admitted request."""
        figures = [backend.stats() for _, backend in self]
        return all(f.num_requests_running + f.num_requests_waiting == 0 for f in figures)

    @property
    def restart_needed(self) -> bool:
        """True if only a new process can recover; a further version that is lost is not worth one."""
        return any(state.restart_needed for state in self.deciding_states().values())

    @property
    def loading(self) -> bool:
        """True while the thread of `start_in_background` is at work."""
        return self._loader is not None and self._loader.is_alive()

    def start(self) -> None:
        """Load the models one after another in this thread, unless stopped meanwhile. Raises StartError.

        Servers elsewhere are asked meanwhile, all at once, so that those that do not answer hold no other up; one whose
        place a checkpoint may take has its turn among the checkpoints.

        A further version that cannot be loaded is logged and left out.
        """
        try:
            self._start()
        except StartError:
            raise
        except Exception as error:
            log.exception("Loading the models failed unexpectedly.")
            name = type(error).__name__
            raise StartError(f"The models could not be loaded: {name}; the traceback is above.") from error

    def _start(self) -> None:
        self._check()
        if not self._stopping.is_set():
            self.image_decoder.start()
            self.grammar_trials.start()
        servers: Mapping[str, object] = self.upstreams
        elsewhere = [name for name, backend in self if backend is servers.get(name)]
        asked = [_in_thread(functools.partial(self._start_or_leave_out, name)) for name in elsewhere]
        for name, _ in self:
            if name not in elsewhere:
                self._start_or_leave_out(name)
        for one in asked:
            one.result()
        self.before_ready()
        self.loaded = True

    def start_in_background(
        self, on_failure: Callable[[StartError], None], on_ready: Callable[[], None] = lambda: None
    ) -> None:
        """Load the models in a thread that then calls one of the two, neither if `stop` came first."""
        self._loader = threading.Thread(target=self._load, args=(on_failure, on_ready), name="load-models", daemon=True)
        self._loader.start()

    def announce_stop(self) -> None:
        """Report ready models as draining while they still accept requests, so that balancers avoid this copy."""
        self._stop_announced = True

    def drain(self) -> None:
        """Refuse new requests from now on and let the admitted ones finish; returns at once."""
        for _, backend in self:
            backend.drain()

    def stop(self, timeout: float) -> None:
        """Drain, leave `timeout` seconds in all to the admitted requests, abort what is left, end the threads."""
        self._stopping.set()
        self.drain()
        deadline = self._clock() + timeout
        for _, backend in self:
            backend.stop(max(0.0, deadline - self._clock()))
        self.image_decoder.stop()
        self.grammar_trials.stop()

    def _shown(self, name: str, state: BackendState) -> BackendState:
        if state.status is not Status.LOADING:
            state = replace(state, progress=None)
        elif state.progress is not None and name in self._began:
            seconds = self._clock() - self._began[name]
            state = replace(state, progress=replace(state.progress, seconds=seconds))
        announced = self._stop_announced and state.status is Status.READY
        return replace(state, status=Status.DRAINING) if announced else state

    def _load(self, on_failure: Callable[[StartError], None], on_ready: Callable[[], None]) -> None:
        try:
            self.start()
        except StartError as error:
            outcome: Callable[[], None] = functools.partial(on_failure, error)
        else:
            outcome = on_ready
        if not self._stopping.is_set():
            outcome()

    def _start_or_leave_out(self, name: str) -> None:
        if self._stopping.is_set():
            return
        try:
            self._start_one(name, self.get(name))
        except StartError as error:
            if not is_further(name):
                raise
            log.error("%s is left out, and the others serve without it: %s", name, error)
            forget_frames(error)
            gc.collect()  # what it has loaded refers to itself, and the next model needs the memory

    def _start_one(self, name: str, backend: Backend) -> None:
        began = self._began[name] = self._clock()
        log.info("Loading %s (%s).", name, backend.info.served_id)
        try:
            backend.start()
        except StartError:
            raise
        except Exception as error:
            log.exception("Loading %s failed unexpectedly.", name)
            raise StartError(f"{name} could not be loaded: {type(error).__name__}; the traceback is above.") from error
        log.info("%s is ready after %.1f s.", name, self._clock() - began)


def _in_thread(work: Callable[[], None]) -> Future[None]:
    """Begin work in a thread that does not hold up the end of the process; return what tells of its end."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, name="ask-servers", daemon=True).start()
    return future
