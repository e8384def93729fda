"""The start of a worker: a first one answers while it loads, one that takes over loads before it accepts.

Who takes over: a worker of a new master that SIGUSR2 made (Gunicorn leaves the old master's number in GUNICORN_PID),
and a worker that SIGHUP put beside an older one of the same master. The first tells systemd who the master is now and
stops the old one once the models are ready, so both serve the same socket for a moment and no request is lost. Where
there is no room for two copies of the models it stops the old one first, and requests wait in the socket meanwhile.
The second waits for the older one to end before it loads.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

import psutil

from engine.errors import NoRoom, StartError
from serving.systemd import Notify
from serving.worker import ServiceWorker

log = logging.getLogger(__name__)

# How often a worker that does not serve yet shows Gunicorn that it lives, in seconds.
HEARTBEAT = 0.2
# How much longer than its drain an older worker is waited for, in seconds.
PREDECESSOR_GRACE = 10.0


def start_models(
    worker: ServiceWorker, old_master: int | None, notify: Notify, leave: Callable[[StartError], None]
) -> None:
    """Load the models the way this worker should. leave: ends the process with a status that Gunicorn understands.

    old_master: the process in whose place this worker's master was made, None if there is none.
    """
    if old_master is not None and not is_parent(old_master, worker.ppid):
        log.warning("The master that was to be replaced (%d) is already gone.", old_master)
        old_master = None
    if old_master is None and not worker.predecessors:
        notify("STATUS=Loading the models")
        worker.models.start_in_background(leave, lambda: notify("READY=1\nSTATUS=Serving"))
        return
    _wait_for_predecessors(worker)
    worker.models.overlapping = old_master is not None
    crowded = _load(worker, leave, gives_way=old_master is not None)
    if crowded is not None and old_master is not None:
        log.warning("%s So the old master ends first, and requests wait until the new one is ready.", crowded)
        notify(f"MAINPID={worker.ppid}\nSTATUS=Loading the models; requests wait meanwhile")
        _make_room(worker, old_master)
        worker.models.overlapping = False
        _load(worker, leave, gives_way=False)
    if worker.alive and not worker.orphaned:
        _take_over(worker, old_master, notify)


def is_parent(pid: int, child: int) -> bool:
    """True if the process `pid` runs and is the parent of `child`."""
    try:
        return bool(psutil.Process(child).ppid() == pid)
    except psutil.Error:
        return False


def leave_process(status: int) -> Callable[[StartError], None]:
    """Return what ends this process at once, from any thread, with one sentence in the log and this exit status."""

    def leave(error: StartError) -> None:
        log.critical("The service cannot start: %s", error)
        logging.shutdown()
        os._exit(status)

    return leave


def _load(worker: ServiceWorker, leave: Callable[[StartError], None], gives_way: bool) -> NoRoom | None:
    """Load until all models are ready, or the worker is to end. Returns why there is no room, where it gives way."""
    settled, crowded = threading.Event(), list[NoRoom]()

    def fail(error: StartError) -> None:
        if not (gives_way and isinstance(error, NoRoom)):
            leave(error)
        else:
            crowded.append(error)
            settled.set()

    worker.models.start_in_background(fail, settled.set)
    _live_until(worker, settled.is_set)
    return crowded[0] if crowded else None


def _make_room(worker: ServiceWorker, old_master: int) -> None:
    """Stop the old master and wait for its end: its worker finishes what it has admitted."""
    if is_parent(old_master, worker.ppid):
        os.kill(old_master, signal.SIGTERM)
    _live_until(worker, lambda: not is_parent(old_master, worker.ppid))


def _take_over(worker: ServiceWorker, old_master: int | None, notify: Notify) -> None:
    notify(f"MAINPID={worker.ppid}\nREADY=1\nSTATUS=Serving")
    if old_master is not None and is_parent(old_master, worker.ppid):
        log.info("The models are ready: stopping the old master (%d).", old_master)
        os.kill(old_master, signal.SIGTERM)


def _wait_for_predecessors(worker: ServiceWorker) -> None:
    until = time.monotonic() + worker.drain_seconds + PREDECESSOR_GRACE
    if worker.predecessors:
        log.info("Waiting for the older worker to end before loading; new requests wait as well.")
    _live_until(worker, lambda: time.monotonic() > until or not any(map(psutil.pid_exists, worker.predecessors)))


def _live_until(worker: ServiceWorker, done: Callable[[], bool]) -> None:
    """Show Gunicorn and systemd that this worker lives until it is done, told to stop, or left alone."""
    pause = threading.Event()
    while not done() and worker.alive and not worker.orphaned:
        worker.notify()
        worker.beat()
        pause.wait(HEARTBEAT)
