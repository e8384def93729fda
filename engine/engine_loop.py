"""The engine's thread: it loads the model, then steps until it is stopped.

If the loop dies, all its requests fail at once with a typed error, and it restarts with empty accounting and a cleared
cache. After more than MAX_RESTARTS deaths within DEATHS_WINDOW, or an error that poisons the device, it is lost: only a
new process can serve again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from engine.engine_core import EngineCore
from engine.errors import EngineDead, NotReady
from engine.faults import is_poison
from engine.schedule.waiting_room import WaitingRoom
from engine.thread_name import name_this_thread

log = logging.getLogger("avito_ai.engine")

MAX_RESTARTS = 3  # within DEATHS_WINDOW
DEATHS_WINDOW = 600.0  # seconds
IDLE_BEAT = 0.5  # seconds between two heartbeats of an idle engine

DIED = "The model's engine stopped under this request; it can be sent again."
STOPPED = "The service stopped before the request finished."


class EngineLoop:
    """One thread over one waiting room.

    name: of the model; make_core: called on the thread at each start; clock: seconds, monotonic; around_steps: entered
    by the thread for all its steps. Other threads may read `core`, `beat` (when the last iteration began), `deaths` and
    `lost`.
    """

    def __init__(
        self,
        name: str,
        room: WaitingRoom,
        make_core: Callable[[], EngineCore],
        clock: Callable[[], float],
        around_steps: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._name, self._room, self._make_core = name, room, make_core
        self._clock, self._around_steps = clock, around_steps
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._ending = False
        self._recent_deaths: list[float] = []
        self.core: EngineCore | None = None
        self.beat = clock()
        self.deaths = 0
        self.lost = False

    def start(self, load: Callable[[], None]) -> None:
        """Start the thread, which calls `load` first; return when that is done. Raises what `load` raises."""
        loaded, failure = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(
            target=self._run, args=(load, loaded, failure), name=f"engine-{self._name}", daemon=True
        )
        self._thread.start()
        loaded.wait()
        if failure:
            raise failure[0]

    def wake(self) -> None:
        """Make an idle loop look for work. Does not block."""
        self._wake.set()

    def end(self, grace: float) -> None:
        """End the thread and abort what is left; a step that takes longer than `grace` seconds is not waited for."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(grace)
        self._close(NotReady, STOPPED)

    # Called by the engine's thread.

    def _run(self, load: Callable[[], None], loaded: threading.Event, failure: list[BaseException]) -> None:
        name_this_thread(f"engine-{self._name}")
        try:
            load()
            self.core = self._make_core()
            self.beat = self._clock()
        except BaseException as error:
            failure.append(error)
            return
        finally:
            loaded.set()
        with self._around_steps():
            while not self._ending and not self.lost:
                try:
                    self._work(self.core)
                except BaseException as error:
                    self._on_loop_death(self.core, error)
                    self.core = self._make_core()

    def _work(self, core: EngineCore) -> None:
        unchecked = True
        while not self._ending:
            self._wake.clear()
            self.beat = self._clock()
            if core.step():
                unchecked = True
            elif not self._wake.wait(IDLE_BEAT) and unchecked:
                core.check_idle()  # not at once: it takes milliseconds, and the next request may be here already
                unchecked = False

    def _on_loop_death(self, core: EngineCore, error: BaseException) -> None:
        """Fail all requests of the dead loop, and decide whether it restarts."""
        log.critical("%s: the engine's loop died.", self._name, exc_info=error)
        now = self._clock()
        self.deaths += 1
        self._recent_deaths = [*(death for death in self._recent_deaths if now - death < DEATHS_WINDOW), now]
        if is_poison(error) or len(self._recent_deaths) > MAX_RESTARTS:
            self._lose()
        core.fail_all(EngineDead, DIED)
        try:
            core.clean()
        except BaseException as second:
            log.critical("%s: the cache cannot be cleared either.", self._name, exc_info=second)
            self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._close(EngineDead, DIED)

    def _close(self, kind: type[EngineDead] | type[NotReady], message: str) -> None:
        """Admit nothing more, then fail what is in flight: in this order, so that no request is left behind."""
        self._room.close()
        if self.core is not None:
            self.core.fail_all(kind, message)
