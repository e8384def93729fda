"""The processes that decode images for this one: a fixed number, shared fairly between clients, each job bounded.

A job that takes too long, or that nobody waits for any longer, ends with its process, and another process takes its
place; one that is still starting is left to start. So does one that takes too much memory. Nothing that is sent here
can hold the interpreter's lock for long.
`ImageWorkers` is the `ImageDecoder` of the service.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence

from engine import errors
from engine.cores import CORES, Cores
from engine.errors import Message, NotReady, Overloaded, ServiceError, ValidationError
from engine.text.image_decoder import Job, Pixels
from engine.text.image_worker import JOB, OUTCOME
from engine.text.images import TOO_SLOW
from engine.text.worker_handle import START_SECONDS, Worker
from engine.wanted import Wanted

log = logging.getLogger("avito_ai.images")

MEMORY_BYTES = 1 << 30  # of one process
DECODE_SECONDS = 20.0  # of one job
STOPPING = "The service is stopping."
NO_MEMORY = Message("image_memory", "There is too little memory for this image; try again later.")


class _Process(Worker):
    """One process."""

    def do(self, job: Job, check: Callable[[], None]) -> Pixels | ServiceError:
        """Return what becomes of a job, once it is ready. Raises EOFError where the process ended, and what `check`
        raises, which is called now and then.
        """
        self.send(JOB.pack(len(job.data), job.factor, job.min_pixels, job.max_pixels, job.resample), check)
        self.send(job.data, check)
        good, width, height = OUTCOME.unpack(self.receive(OUTCOME.size, check))
        if good:
            return Pixels(width, height, self.receive(3 * width * height, check))
        return _error(self.receive(width, check))


class ImageWorkers:
    """A pool of processes. `decode` may be called from any thread once it is started.

    count: of processes; seconds: that one job may take; memory_bytes: that one process may take; command: what starts a
    process, with `{socket}` where the number of its socket belongs; cores: where its jobs are counted.
    """

    def __init__(
        self,
        count: int,
        seconds: float = DECODE_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        command: Sequence[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        cores: Cores = CORES,
    ) -> None:
        self.count, self.memory_bytes = count, memory_bytes
        self._seconds, self._clock, self._cores = seconds, clock, cores
        module = [sys.executable, "-m", "engine.text.image_worker", "{socket}", str(memory_bytes)]
        self._command = list(command or module)
        self._lock = threading.Lock()  # guards everything below
        self._idle: list[_Process] = []
        self._busy: dict[_Process, str] = {}
        self._lines: OrderedDict[str, deque[tuple[Wanted, list[_Process]]]] = OrderedDict()
        self._stopped = False
        self.restarts = 0

    def start(self) -> None:
        """Start every process and wait until they take jobs. Raises StartError."""
        made: list[_Process] = []
        wanted = Wanted(self._clock() + START_SECONDS, clock=self._clock)
        try:
            for _ in range(self.count):
                made.append(self._new_process())
            for process in made:
                process.wait_until_ready(wanted.check)
        except (EOFError, OSError, ServiceError) as error:
            for process in made:
                process.end()
            raise errors.StartError("The processes that decode images cannot be started.") from error
        with self._lock:
            self._idle += made
            stopped = self._stopped
        if stopped:
            self.stop()

    def stop(self) -> None:
        """End every process; jobs under way fail."""
        with self._lock:
            self._stopped = True
            idle, busy = [*self._idle], [*self._busy]
            self._idle.clear()
            waiting = [wanted for line in self._lines.values() for wanted, _ in line]
        for process in idle:
            process.end()
        for process in busy:  # the thread that uses it releases the rest
            process.kill()
        for wanted in waiting:
            wanted.changed.set()

    @property
    def pids(self) -> list[int]:
        """The processes' numbers."""
        with self._lock:
            return [process.pid for process in (*self._idle, *self._busy)]

    def decode(self, job: Job, wanted: Wanted) -> Pixels:
        """Return the pixels of an image, decoded by one of the processes. Raises as `ImageDecoder.decode` does."""
        process = self._take(wanted)
        try:
            process.wait_until_ready(wanted.check)
            with self._cores.job():
                outcome = process.do(job, self._check(wanted, self._clock() + self._seconds))
        except EOFError:
            self._replace(process)
            raise (NotReady(STOPPING) if self._stopped else Overloaded(NO_MEMORY)) from None
        except BaseException:
            if process.ready or self._clock() >= process.ready_by:
                self._replace(process)
            else:  # it knows nothing of the job; were it replaced, impatient clients could keep any from being ready
                self._give_back(process)
            raise
        self._give_back(process)
        if isinstance(outcome, ServiceError):
            try:
                raise outcome
            finally:
                del outcome  # it knows this frame, which has the image
        return outcome

    def _check(self, wanted: Wanted, until: float) -> Callable[[], None]:
        """Return what raises once a job is not wanted any longer, or takes too long."""

        def check() -> None:
            wanted.check()
            if self._clock() >= until:
                raise ValidationError(TOO_SLOW, "image")

        return check

    def _new_process(self) -> _Process:
        return _Process(self._command, self._clock() + START_SECONDS)

    def _take(self, wanted: Wanted) -> _Process:
        """Wait for a process."""
        given: list[_Process] = []
        entry = (wanted, given)
        with self._lock:
            self._lines.setdefault(wanted.client, deque()).append(entry)
            self._hand_out()
        try:
            while not given:
                if self._stopped:
                    raise NotReady(STOPPING)
                wanted.wait()
            wanted.check()
        except BaseException:
            with self._lock:
                self._leave(entry)
                if given:
                    self._put_back(given[0])
            raise
        return given[0]

    def _hand_out(self) -> None:
        """Give idle processes to those who wait, client by client; one client does not get all of them while another
        waits or might come. With the lock held.
        """
        share = max(1, self.count - 1)
        while self._idle:
            held = Counter(self._busy.values())
            client = next((client for client in self._lines if held[client] < share), None)
            if client is None:
                return
            line = self._lines[client]
            wanted, given = line.popleft()
            self._lines.move_to_end(client)
            if not line:
                del self._lines[client]
            process = self._idle.pop()
            self._busy[process] = client
            given.append(process)
            wanted.changed.set()

    def _leave(self, entry: tuple[Wanted, list[_Process]]) -> None:
        client = entry[0].client
        line = self._lines.get(client)
        if line is not None and entry in line:
            line.remove(entry)
            if not line:
                del self._lines[client]

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            self._put_back(process)

    def _put_back(self, process: _Process) -> None:
        del self._busy[process]
        if self._stopped:
            process.end()
        else:
            # Whoever comes next takes the last one: others wait for none that is starting, or could not be replaced.
            self._idle.insert(len(self._idle) if process.ready else 0, process)
            self._hand_out()

    def _replace(self, process: _Process) -> None:
        """Kill a process that is of no use any more, and start another one in its place.

        Where none can be started, the old one stays in its place: the next job fails on it, and tries again.
        """
        process.end()
        fresh = process
        if not self._stopped:
            log.warning("A process that decodes images was ended and is replaced.")
            try:
                fresh = self._new_process()
            except OSError as error:
                log.error("No process that decodes images can be started: %s.", error.strerror)
        with self._lock:
            self.restarts += fresh is not process
            self._busy[fresh] = self._busy.pop(process)
            self._put_back(fresh)


def _error(told: bytes) -> ServiceError:
    """Return the error that a process told."""
    content = json.loads(told)
    kind, message = getattr(errors, content["error"], ValidationError), str(content["message"])
    if "key" in content:
        message = Message.restored(content["key"], message, content["values"])
    error: ServiceError = kind(message, "image") if issubclass(kind, ValidationError) else kind(message)
    return error
