"""The service's end of a process that does work which may have to be killed; `worker_process` is the other end."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.text.worker_process import READY

ROOT = Path(__file__).parents[2]
TICK = 0.05  # seconds between two looks at whether a job is still wanted
START_SECONDS = 30.0


class Worker:
    """One process and our end of its socket. ready_by: when it should take jobs, by whichever clock.

    command: what starts it, with `{socket}` where the number of its socket belongs. Raises OSError.
    """

    def __init__(self, command: Sequence[str], ready_by: float) -> None:
        self.ready_by = ready_by
        self._socket, theirs = socket.socketpair()
        with theirs:
            # One thread, one heap, and no secret of the service.
            environment = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(ROOT)}
            arguments = [word.format(socket=theirs.fileno()) for word in command]
            try:
                self._process = subprocess.Popen(
                    arguments, pass_fds=(theirs.fileno(),), env=environment, cwd=ROOT, stdin=subprocess.DEVNULL
                )
            except OSError:
                self._socket.close()
                raise
        self._socket.settimeout(TICK)
        self.ready = False

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Wait until it takes jobs. Raises EOFError where it has ended, and what `check` raises, now and then."""
        if not self.ready:
            self.receive(len(READY), check)
            self.ready = True

    def kill(self) -> None:
        """Kill it; whoever waits for it sees its end."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill it and release everything it holds."""
        self.ready = False
        self.kill()
        self._socket.close()

    def send(self, data: bytes, check: Callable[[], None]) -> None:
        """Send all of it. Raises as `wait_until_ready`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                check()
            except OSError as error:
                raise EOFError from error

    def receive(self, size: int, check: Callable[[], None]) -> bytes:
        """Return exactly `size` bytes. Raises as `wait_until_ready`."""
        data, filled = bytearray(size), 0
        while filled < size:
            try:
                received = self._socket.recv_into(memoryview(data)[filled:])
            except TimeoutError:
                check()
                continue
            except OSError as error:
                raise EOFError from error
            if not received:
                raise EOFError
            filled += received
        return bytes(data)
