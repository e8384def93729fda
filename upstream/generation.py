"""An answer of another server, on its way to the thread that serves the client."""

from __future__ import annotations

import copy
import threading
from typing import Any

from engine.backend import Generation
from engine.errors import ServiceError
from engine.types import Completion, Piece, Spent

COMMIT_AFTER = (
    10.0  # seconds after which a client is told 200 before there is an answer, as proxies do not wait forever
)
GIVEN_WAY = 0.001  # seconds at most in which a consumer that has waited wakes up before its producer goes on


class UpstreamGeneration(Generation):
    """A generation whose parts can be taken back while no client reads them, so that a failure can still be mended.

    Its producer pushes what has come together and then calls `flush`, with no lock held: what `tell` is given is called
    there, and may write the parts itself, since that thread does nothing but wait for sockets.
    """

    writes_itself = True
    _begun = False  # guarded as the fields of its base
    _parts = 0  # pushed since the last that were taken back
    _waits = False  # a consumer waits for the beginning

    def __init__(self, *args: Any, **values: Any) -> None:
        super().__init__(*args, **values)
        self.repeated = Spent()  # what attempts took that were repeated
        self._awake = threading.Lock()  # released by a consumer that has waited, once it is awake
        self._awake.acquire()

    @property
    def certain(self) -> bool:
        return self._begun or self._completion is not None

    @property
    def spent(self) -> Spent:
        return super().spent + self.repeated

    def repeat(self, spent: Spent) -> None:
        """Add what an attempt took whose answer is dropped. Called by the producer alone."""
        self.repeated += spent

    @property
    def handed(self) -> bool:
        """Whether a client may have a part, so that nothing can be taken back."""
        with self._lock:
            return self._streaming and self._parts > 0

    def begin(self) -> None:
        """Note that the server has begun to answer, and let a consumer that waits for it get on first.

        Else the producer, which keeps the interpreter lock, would read whatever else has come before the consumer sends
        the first part.
        """
        with self._lock:
            self._begun = True
            waits = self._waits
            self._changed.notify_all()
        if waits:
            self._awake.acquire(timeout=GIVEN_WAY)

    def wait_for_begin(self) -> None:
        with self._lock:
            self._waits = not self._begun
            self._changed.wait_for(lambda: self._begun or self.done, COMMIT_AFTER)
            waited, self._waits = self._waits, False
            if waited and self._begun:
                self._awake.release()
            if self._error is not None:
                raise copy.copy(self._error)  # as `_outcome` does

    def push(self, piece: Piece) -> None:
        """Hand over a part of the answer; `flush` tells of it."""
        with self._lock:
            self._parts += 1
            if self._listener is None:
                self._pieces.append(piece)
            elif self._streaming:
                self._listener(piece)

    def flush(self) -> None:
        """Tell a consumer that streams of what was pushed."""
        wake = self._wake
        if wake is not None:
            wake()
        elif self._streaming:
            with self._lock:
                self._changed.notify_all()

    def take_back(self) -> bool:
        """Forget the parts of an attempt that has failed; False where a client may have some of them."""
        with self._lock:
            if self.handed:
                return False
            self._pieces.clear()
            self._parts = 0
            return True

    def finish(self, completion: Completion) -> None:
        super().finish(completion)
        self._tell_end()

    def fail(self, error: ServiceError, spent: Spent | None = None) -> None:
        super().fail(error, spent)
        self._tell_end()

    def _notify_end(self) -> None:
        # With the lock held, in which `wake` must not be called here.
        if self._listener is not None:
            self._listener(None)
        self._changed.notify_all()

    def _tell_end(self) -> None:
        wake = self._wake
        if wake is not None:
            wake()
