"""The ExecReload of avito-ai.service: hand over to the release that `current` points to.

`python -m deploy.reload MAINPID` has Gunicorn's master fork a new one (SIGUSR2), which loads its models beside the old
one. The exit status is 0 once the models are ready and the old master has finished its requests and exited. If the new
one exits, loses its worker, or is not ready in time, it is stopped, the old one keeps serving, and the status is 1.
Standard library only; Linux only. RUNTIME_DIRECTORY is the unit's directory under /run, where the worker whose models
are ready writes its master's pid (`serving.systemd`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

PATIENCE = 840.0  # seconds, a minute less than the unit's TimeoutStartSec
FORK_SECONDS = 2.0  # from SIGUSR2 to a new master
ATTEMPTS = 5
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
SERVING = "serving"
PROC = Path("/proc")


class Failure(Exception):
    """A failed hand-over; the message has the reason."""


class Process(NamedTuple):
    """A process in /proc; `start_time` distinguishes it from a later one with the same pid."""

    pid: int
    parent: int
    start_time: int

    @property
    def alive(self) -> bool:
        """True until it has exited, reaped or not."""
        found = find_process(self.pid)
        return found is not None and found.start_time == self.start_time

    def children(self) -> set[int]:
        """Return the pids of its running children."""
        return {process.pid for process in processes() if process.parent == self.pid}

    def signal(self, number: int) -> None:
        """Send a signal, unless it has exited."""
        if self.alive:
            os.kill(self.pid, number)


def find_process(pid: int) -> Process | None:
    """Return the process with this pid; None if it does not exist or has exited."""
    try:
        # The name in brackets may hold any character; state and further fields follow it (proc(5)).
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), int(fields[19]))


def processes() -> Iterator[Process]:
    """Yield every running process that is visible."""
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (found := find_process(int(folder.name))):
            yield found


def successor_of(old: Process) -> Process | None:
    """Return the master that the old one has forked; GUNICORN_PID in its environment distinguishes it from workers."""
    mark = f"GUNICORN_PID={old.pid}".encode()
    for process in processes():
        try:
            if process.parent == old.pid and mark in (PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                return process
        except OSError:
            continue
    return None


def start_successor(old: Process) -> Process:
    """Request a new master and return it. Repeated, since a master that has just taken over ignores SIGUSR2."""
    for _ in range(ATTEMPTS):
        if found := successor_of(old):
            return found
        old.signal(signal.SIGUSR2)
        if wait_for(lambda: successor_of(old) is not None or not old.alive, FORK_SECONDS) and not old.alive:
            raise Failure("The service exited before a new release could take over.")
    raise Failure("The service does not react to SIGUSR2; use `systemctl restart`.")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds; return whether it did in time."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        pause.wait(POLL_SECONDS)
    return holds


def has_taken_over(new: Process, runtime: Path) -> bool:
    """Return whether the new master's models are ready."""
    try:
        return (runtime / SERVING).read_text() == f"{new.pid}\n"
    except OSError:
        return False


def await_take_over(new: Process, runtime: Path, patience: float) -> None:
    """Return once the new master serves. Raises Failure if it fails to."""
    workers: set[int] = set()

    def settled() -> bool:
        workers.update(new.children())
        return has_taken_over(new, runtime) or not new.alive or len(workers) > 1

    in_time = wait_for(settled, patience)
    if has_taken_over(new, runtime):
        return
    if not new.alive:
        raise Failure("The new release exited before it was ready; see its messages above.")
    if in_time:
        raise Failure("The new release lost its worker while loading: is there enough memory for both?")
    raise Failure(f"The new release was not ready within {patience:.0f} s.")


def stop(new: Process) -> None:
    """Stop the new master and its children."""
    family = [new, *(found for pid in new.children() if (found := find_process(pid)))]
    new.signal(signal.SIGTERM)
    if not wait_for(lambda: not new.alive, STOP_SECONDS):
        for process in family:
            process.signal(signal.SIGKILL)


def take_over(old: Process, runtime: Path, patience: float = PATIENCE) -> None:
    """Replace the old master. Raises Failure."""
    started = time.monotonic()
    new = start_successor(old)
    try:
        await_take_over(new, runtime, patience)
    except BaseException:
        stop(new)
        raise
    if wait_for(lambda: not old.alive, max(0.0, patience - (time.monotonic() - started))):
        print("The new release serves; the previous one has finished its requests and exited.", flush=True)
    else:
        print("The new release serves; the previous one is still finishing its requests.", flush=True)


def _cancel(number: int, frame: FrameType | None) -> None:
    raise Failure("The reload was cancelled.")


def main(arguments: list[str]) -> int:
    """Replace the master with the given pid."""
    if len(arguments) != 1 or not arguments[0].isdigit() or "RUNTIME_DIRECTORY" not in os.environ:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _cancel)
    old = find_process(int(arguments[0]))
    try:
        if old is None:
            raise Failure("The service is not running.")
        take_over(old, Path(os.environ["RUNTIME_DIRECTORY"]))
    except Failure as failure:
        serves = old is not None and old.alive
        previous = "The previous one keeps serving." if serves else "The previous one has exited too."
        print(f"{failure} {previous}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
