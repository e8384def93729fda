"""The engine's thread: it loads, then steps until it is told to end.

If the loop dies, everybody it held gets a typed error at once, and it begins again with clean books. After more than
MAX_RESTARTS deaths within DEATHS_WINDOW, or an error that poisons the device, it is lost, and only a new process
can help.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from engine.engine_core import EngineCore
from engine.errors import EngineDead, RequestAborted
from engine.faults import is_poison
from engine.schedule.waiting_room import WaitingRoom

log = logging.getLogger("avito_ai.engine")

MAX_RESTARTS = 3  # within DEATHS_WINDOW
DEATHS_WINDOW = 600.0  # seconds
IDLE_BEAT = 0.5  # seconds between two signs of life of an idle engine

DIED = "The model's engine stopped under this request; it can be sent again."
STOPPED = "The service stopped before the request finished."


class EngineLoop:
    """One thread over one waiting room.

    name: of the model; make_core: called on the thread for each life; clock: seconds, monotonic. Other threads may
    read `core`, `beat` (when the loop last came round), `deaths` and `lost`.
    """

    def __init__(
        self,
        name: str,
        room: WaitingRoom,
        make_core: Callable[[], EngineCore],
        clock: Callable[[], float],
    ) -> None:
        self._name, self._room, self._make_core = name, room, make_core
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._ending = False
        self._recent_deaths: list[float] = []
        self.core: EngineCore | None = None
        self.beat = clock()
        self.deaths = 0
        self.lost = False

    def start(self, load: Callable[[], None]) -> None:
        """Start the thread, which calls `load` first; return when that is done. Raises what it raised."""
        loaded, failure = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(
            target=self._live, args=(load, loaded, failure), name=f"engine-{self._name}", daemon=True
        )
        self._thread.start()
        loaded.wait()
        if failure:
            raise failure[0]

    def wake(self) -> None:
        """Make an idle loop look for work; takes no lock that is held elsewhere."""
        self._wake.set()

    def end(self, grace: float) -> None:
        """End the thread and abort whatever is left; a step that takes longer than `grace` seconds is left alone."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(grace)
        self._close(RequestAborted, STOPPED)

    # --- the engine's thread ---

    def _live(self, load: Callable[[], None], loaded: threading.Event, failure: list[BaseException]) -> None:
        try:
            load()
            self.core = self._make_core()
            self.beat = self._clock()
        except BaseException as error:
            failure.append(error)
            return
        finally:
            loaded.set()
        while not self._ending and not self.lost:
            try:
                self._work(self.core)
            except BaseException as error:
                self._on_loop_death(self.core, error)
                self.core = self._make_core()

    def _work(self, core: EngineCore) -> None:
        while not self._ending:
            self._wake.clear()
            self.beat = self._clock()
            if not core.step():
                core.check_idle()
                self._wake.wait(IDLE_BEAT)

    def _on_loop_death(self, core: EngineCore, error: BaseException) -> None:
        """Fail everybody the dead loop held, and decide whether there is a next life."""
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
            log.critical("%s: its cache cannot be cleaned either.", self._name, exc_info=second)
            self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._close(EngineDead, DIED)

    def _close(self, kind: type[EngineDead] | type[RequestAborted], message: str) -> None:
        """Let nobody in any more, then fail who is in: in this order, so that nobody is left behind."""
        self._room.close()
        if self.core is not None:
            self.core.fail_all(kind, message)
