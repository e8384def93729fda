"""Starts one of two exercises for those who operate the service, and tells when it is solved: docs/incidents.md.

    sudo .venv/bin/python -m deploy.exercise disk [--folder FOLDER] [--minutes N]  fills the disk of the service
    sudo .venv/bin/python -m deploy.exercise stall [--model avibe] [--minutes N]   stops a model's engine

Both end by themselves after N minutes (10), at Ctrl+C or where the terminal is closed, and when they are solved: by
making room, or by a restart of the service. Whoever solves one must not know which it is, and works from the alert on.
Linux, as root.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.service import main_pid

UNIT = "avito-ai.service"
STATE = Path("/var/lib/avito-ai")
FILLING = "core.4711"  # as a crash would leave one: found by its size, not by its name
LEFT = 16 * 1024 * 1024  # bytes that stay free
EVERY = 1.0  # seconds between two looks
TRIES = 200
SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # linux/ptrace.h
ALL_THREADS = 0x40000000  # __WALL of waitpid(2)


class CannotBegin(Exception):
    """The exercise cannot be started here; the message says why."""


@contextmanager
def full_disk(folder: Path, left: int = LEFT) -> Iterator[Callable[[], bool]]:
    """Fill the file system of a folder but for `left` bytes; yield what tells whether somebody has made room."""
    file, room = folder / FILLING, os.statvfs(folder)
    size = room.f_bavail * room.f_frsize - left
    if file.exists() or size <= 0:
        raise CannotBegin(f"{file} is there already." if file.exists() else f"The disk of {folder} is full as it is.")
    try:
        with file.open("xb") as filling:
            os.posix_fallocate(filling.fileno(), 0, size)
        yield lambda: os.statvfs(folder).f_bavail * room.f_frsize > left + size // 10
    except OSError as error:
        raise CannotBegin(f"{file}: {error.strerror}.") from error
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def stalled_engine(thread: int) -> Iterator[Callable[[], bool]]:
    """Stop one thread of another process as a debugger does; yield what tells whether the thread is gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(SEIZE, thread, None, None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise CannotBegin(f"The thread {thread} cannot be stopped ({reason}); /proc/sys/kernel/yama/ptrace_scope?")
    try:
        _await_sleep(thread)
        libc.ptrace(INTERRUPT, thread, None, None)
        os.waitpid(thread, ALL_THREADS)
        yield lambda: _has_ended(thread)
    finally:
        libc.ptrace(DETACH, thread, None, None)


def engine_thread(master: int, model: str, proc: Path = Path("/proc")) -> int:
    """Return the thread of a model's engine in the newest worker of a master. Raises CannotBegin."""
    workers = [int(pid) for pid in (proc / f"{master}/task/{master}/children").read_text().split()] if master else []
    for worker in sorted(workers, reverse=True):
        tasks = (proc / str(worker) / "task").iterdir()
        named = [int(task.name) for task in tasks if (task / "comm").read_text().strip() == f"engine-{model}"]
        if named:
            return min(named)  # threads that it has begun, such as those that compute, have its name too
    raise CannotBegin(f"No engine of the model {model} runs in {UNIT}.")


def _has_ended(thread: int) -> bool:
    """True once the thread was killed; who stops a thread has to collect it, or its process never ends."""
    try:
        found, status = os.waitpid(thread, ALL_THREADS | os.WNOHANG)
    except ChildProcessError:
        return True
    return found == thread and not os.WIFSTOPPED(status)


def _await_sleep(thread: int) -> None:
    """Wait until the thread has nothing to do: stopped with the interpreter's lock, it would stop everything else."""
    for _ in range(TRIES):
        if _state(thread) == "S":
            return
        time.sleep(0.005)


def _state(thread: int) -> str:
    return Path(f"/proc/{thread}/stat").read_text().rpartition(") ")[2][:1]


def supervise(solved: Callable[[], bool], minutes: float, pause: Callable[[float], object] = time.sleep) -> bool:
    """Look until the exercise is solved or its time is over; return whether it was solved."""
    began = time.monotonic()
    print("The exercise has begun. Ctrl+C ends it.", flush=True)
    while time.monotonic() - began < minutes * 60:
        if solved():
            print(f"Solved after {time.monotonic() - began:.0f} s.", flush=True)
            return True
        pause(EVERY)
    print("The time is over; everything is as it was before.", flush=True)
    return False


def main(arguments: list[str]) -> int:
    """Run an exercise; the exit status is 0 if it was solved, 1 if not, 2 if it could not begin, 130 after Ctrl+C."""
    parser = argparse.ArgumentParser(prog="python -m deploy.exercise", description="Exercises; see docs/incidents.md.")
    parser.add_argument("which", choices=("disk", "stall"))
    parser.add_argument("--folder", type=Path, default=STATE)
    parser.add_argument("--model", default="avibe")
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # else a disk would stay full behind a connection that is lost
        signal.signal(number, signal.default_int_handler)
    try:
        if options.which == "disk":
            begun = full_disk(options.folder)
        else:
            begun = stalled_engine(engine_thread(main_pid(UNIT), options.model))
        with begun as solved:
            return 0 if supervise(solved, options.minutes) else 1
    except (CannotBegin, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Ended; everything is as it was before.")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
