"""The processes that try new grammars for this one, so that one that never compiles keeps no thread of the service.

A matcher cannot be moved between processes, so each new grammar is compiled twice: here first, over a vocabulary of
bytes, which takes little, and then in the service, where it comes to an end as well. What exceeds the limits is refused
after the first, so that it takes nothing from the service. They also rewrite the schemas that
take long, which would keep the interpreter lock of the service from others. A process takes about 20 MiB and 0.1 s of
processor time to start.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from engine.cores import CORES, Cores
from engine.errors import Overloaded, ValidationError
from engine.text.grammar_limits import TOO_COMPLEX
from engine.text.grammar_worker import HEAD, LENGTH, REFUSED, REWRITE, TRY
from engine.text.schema.elsewhere import Job, Outcome, outcome_of, packed, unpacked
from engine.text.worker_handle import START_SECONDS, Worker

log = logging.getLogger("avito_ai.grammars")

PROCESSES = 2
MEMORY_BYTES = 192 << 20  # of one process
TOO_MANY = "Too many new schemas at once; try again later."


class Trials(Protocol):
    """What tries a grammar before it is compiled."""

    def start(self) -> None:
        """Prepare."""

    def stop(self) -> None:
        """Release what is held; a trial under way fails."""

    def check(self, grammar: str, seconds: float) -> None:
        """Raise ValidationError if the compilation of a grammar comes to no end, or exceeds its limits or the memory.

        Raises Overloaded if others' trials take the time.
        """

    def rewrite(self, job: Job, seconds: float) -> Outcome:
        """Rewrite a schema in another process. Raises as `check` does."""


class NoTrials:
    """No trials: for grammars that are trusted to compile."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def check(self, grammar: str, seconds: float) -> None:
        pass

    def rewrite(self, job: Job, seconds: float) -> Outcome:
        return outcome_of(job)


class GrammarProcesses:
    """Trials in processes. Thread-safe.

    command: what starts one; clock: seconds, monotonic; cores: where a trial is counted while it is computed.
    """

    def __init__(
        self,
        count: int = PROCESSES,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        cores: Cores = CORES,
    ) -> None:
        self._count, self._clock, self._cores = count, clock, cores
        self._command = command or [sys.executable, "-m", "engine.text.grammar_worker", "{socket}", str(MEMORY_BYTES)]
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()  # None: to be started
        self._lock = threading.Lock()  # guards the two fields below
        self._workers: set[Worker] = set()
        self._stopped = False

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        with self._lock:
            return [worker.pid for worker in self._workers]

    def start(self) -> None:
        for _ in range(self._count):
            self._idle.put(self._new())

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            workers, self._workers = self._workers, set()
        for worker in workers:
            worker.end()

    def check(self, grammar: str, seconds: float) -> None:
        if self._ask(TRY, grammar.encode(), seconds) == REFUSED:
            raise ValidationError(TOO_COMPLEX)

    def rewrite(self, job: Job, seconds: float) -> Outcome:
        answer = self._ask(REWRITE, packed(job), seconds)
        return outcome_of(job) if answer is None else unpacked(answer)

    def _ask(self, what: bytes, data: bytes, seconds: float) -> bytes | None:
        """Have something done; return the answer, None where there can be no process now. Raises as `check` does."""
        try:
            worker = self._idle.get(timeout=seconds) or self._new()
        except queue.Empty:
            raise Overloaded(TOO_MANY, 1) from None
        try:
            if worker is None:  # nothing can be tried now; the limits of the library hold nevertheless
                return None
            try:
                return self._answer(worker, what, data, seconds)
            except EOFError:  # it may have been killed before, so another one has to die of this job too
                worker = self._replaced(worker)
                return None if worker is None else self._answer(worker, what, data, seconds)
        except (EOFError, TimeoutError):
            worker = self._replaced(worker)
            raise ValidationError(TOO_COMPLEX) from None
        finally:
            self._idle.put(worker)

    def _answer(self, worker: Worker, what: bytes, data: bytes, seconds: float) -> bytes:
        worker.wait_until_ready(self._until(worker.ready_by))
        check = self._until(self._clock() + seconds)
        with self._cores.job():
            worker.send(HEAD.pack(what, len(data)) + data, check)
            (size,) = LENGTH.unpack(worker.receive(LENGTH.size, check))
            return worker.receive(size, check)

    def _until(self, end: float) -> Callable[[], None]:
        def check() -> None:
            if self._clock() >= end:
                raise TimeoutError

        return check

    def _new(self) -> Worker | None:
        """Start a process; None where that is impossible now, and once all are stopped."""
        with self._lock:
            if self._stopped:
                return None
            try:
                worker = Worker(self._command, self._clock() + START_SECONDS)
            except OSError as error:
                log.error("No process that tries grammars can be started: %s.", error.strerror)
                return None
            self._workers.add(worker)
            return worker

    def _replaced(self, worker: Worker | None) -> Worker | None:
        """Kill a process that is of no use any more; return one in its place."""
        with self._lock:
            known = worker in self._workers
            if worker is not None:
                self._workers.discard(worker)
        if worker is not None and known:  # else it is stopped already
            log.warning("A process that tries grammars was ended and is replaced.")
            worker.end()
        return self._new()
