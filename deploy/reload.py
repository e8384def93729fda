"""What `systemctl reload avito-ai` runs: the release that `current` names takes over from the one that serves.

`python -m deploy.reload MAINPID` asks Gunicorn's master for a new one (SIGUSR2), which loads its models beside the old
one. It ends with 0 once those are ready and the old master has finished its requests and gone. Where the new one ends
first, does not keep its worker, or is not ready in time, it is stopped, the old one serves on, and the status is 1.
With the standard library alone; Linux only. RUNTIME_DIRECTORY is the unit's folder under /run, in which the worker
whose models are ready leaves its master's number (`serving.systemd`).
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

PATIENCE = 840.0  # seconds, a minute less than the unit gives to a reload
ANSWER_SECONDS = 2.0  # from SIGUSR2 to a new master
CALLS = 5
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1
SERVING = "serving"
PROC = Path("/proc")


class Failure(Exception):
    """Why there was no take-over."""


class Process(NamedTuple):
    """A process as /proc shows it; `began` tells it from a later one of the same number."""

    pid: int
    parent: int
    began: int

    @property
    def alive(self) -> bool:
        """True until it has ended, reaped or not."""
        found = look(self.pid)
        return found is not None and found.began == self.began

    def children(self) -> set[int]:
        """Return the numbers of its living children."""
        return {process.pid for process in processes() if process.parent == self.pid}

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.alive:
            os.kill(self.pid, number)


def look(pid: int) -> Process | None:
    """Return the process of this number; None where there is none, or none that lives."""
    try:
        # The name, in brackets, may hold anything; the state and the rest come after it (proc(5)).
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), int(fields[19]))


def processes() -> Iterator[Process]:
    """Yield every living process that can be seen."""
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (found := look(int(folder.name))):
            yield found


def successor_of(old: Process) -> Process | None:
    """Return the master that the old one has made; its workers do not have Gunicorn's mark of one."""
    mark = f"GUNICORN_PID={old.pid}".encode()
    for process in processes():
        try:
            if process.parent == old.pid and mark in (PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                return process
        except OSError:
            continue
    return None


def call_successor(old: Process) -> Process:
    """Ask for a new master and return it. A master that has only just taken over does not hear the first calls."""
    for _ in range(CALLS):
        if found := successor_of(old):
            return found
        old.signal(signal.SIGUSR2)
        if wait_for(lambda: successor_of(old) is not None or not old.alive, ANSWER_SECONDS) and not old.alive:
            raise Failure("The service ended before a new release could take over.")
    raise Failure("The service does not answer SIGUSR2; `systemctl restart` is the way out.")


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds; return whether it did within the time."""
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
    """Return once the new master serves. Raises Failure where it will not."""
    workers: set[int] = set()

    def settled() -> bool:
        workers.update(new.children())
        return has_taken_over(new, runtime) or not new.alive or len(workers) > 1

    in_time = wait_for(settled, patience)
    if has_taken_over(new, runtime):
        return
    if not new.alive:
        raise Failure("The new release ended before it was ready; its reason stands above.")
    if in_time:
        raise Failure("The new release lost its worker while it loaded: is there too little memory for both?")
    raise Failure(f"The new release was not ready within {patience:.0f} s.")


def dismiss(new: Process) -> None:
    """End the new master and all it has started."""
    family = [new, *(found for pid in new.children() if (found := look(pid)))]
    new.signal(signal.SIGTERM)
    if not wait_for(lambda: not new.alive, STOP_SECONDS):
        for process in family:
            process.signal(signal.SIGKILL)


def take_over(old: Process, runtime: Path, patience: float = PATIENCE) -> None:
    """Have the old master replaced. Raises Failure."""
    began = time.monotonic()
    new = call_successor(old)
    try:
        await_take_over(new, runtime, patience)
    except BaseException:
        dismiss(new)
        raise
    if wait_for(lambda: not old.alive, max(0.0, patience - (time.monotonic() - began))):
        print("The new release serves; the one before has finished its requests and ended.", flush=True)
    else:
        print("The new release serves; the one before is still finishing its requests.", flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Failure("The reload was called off.")


def main(arguments: list[str]) -> int:
    """Replace the master that is named."""
    if len(arguments) != 1 or not arguments[0].isdigit() or "RUNTIME_DIRECTORY" not in os.environ:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _leave)
    old = look(int(arguments[0]))
    try:
        if old is None:
            raise Failure("The service does not run.")
        take_over(old, Path(os.environ["RUNTIME_DIRECTORY"]))
    except Failure as failure:
        serves = "The one before serves on." if old is not None and old.alive else "The one before has ended too."
        print(f"{failure} {serves}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
