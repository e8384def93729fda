"""The start of a worker: a first one serves while it loads, a successor loads before it accepts connections.

There are two kinds of successor:
- SIGUSR2 forks a new master (Gunicorn leaves the old one's pid in GUNICORN_PID). Once the models are ready its worker
  reports the new main pid to systemd and stops the old master, so both serve the same socket for a moment and no
  request is lost. It loads at a lower priority. If two copies of the models do not fit in memory, it stops the old
  master first, and requests wait in the backlog.
- SIGHUP starts a worker beside the old one of the same master. It waits for the old worker to exit before it loads.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import psutil

from engine.errors import NoRoom, StartError
from serving.priority import yielding
from serving.systemd import Notify
from serving.worker import ServiceWorker

log = logging.getLogger("avito_ai.serving")

# Interval of a starting worker's heartbeats to Gunicorn, in seconds.
HEARTBEAT = 0.2
# How long to wait for an old worker beyond its drain, in seconds.
PREDECESSOR_GRACE = 10.0


def start_models(
    worker: ServiceWorker, old_master: int | None, notify: Notify, on_failure: Callable[[StartError], None]
) -> None:
    """Load the models, as a first worker or as a successor.

    old_master: pid of the master that this worker's master replaces, or None; on_failure: ends the process with an exit
    status that Gunicorn understands.
    """
    if old_master is not None and not is_parent(old_master, worker.ppid):
        log.warning("The master to replace (%d) has already exited.", old_master)
        old_master = None
    if old_master is None and not worker.predecessors:
        notify("STATUS=Loading the models")
        worker.models.start_in_background(on_failure, lambda: notify("READY=1\nSTATUS=Serving"))
        return
    _wait_for_predecessors(worker)
    worker.models.overlapping = old_master is not None
    with yielding() if old_master is not None else nullcontext():
        no_room = _load(worker, on_failure, return_no_room=old_master is not None)
    if no_room is not None and old_master is not None:
        log.warning("%s The old master is stopped first, and requests wait until the new one is ready.", no_room)
        notify(f"MAINPID={worker.ppid}\nSTATUS=Loading the models; requests wait meanwhile")
        _stop_old_master(worker, old_master)
        worker.models.overlapping = False
        _load(worker, on_failure, return_no_room=False)
    if worker.alive and not worker.orphaned:
        _take_over(worker, old_master, notify)


def is_parent(pid: int, child: int) -> bool:
    """True if the process `pid` is running and is the parent of `child`."""
    try:
        return bool(psutil.Process(child).ppid() == pid)
    except psutil.Error:
        return False


def exit_process(status: int) -> Callable[[StartError], None]:
    """Return a function that logs the error and ends this process with `status` at once, from any thread."""

    def exit_now(error: StartError) -> None:
        log.critical("The service cannot start: %s", error)
        logging.shutdown()
        os._exit(status)

    return exit_now


def _load(worker: ServiceWorker, on_failure: Callable[[StartError], None], return_no_room: bool) -> NoRoom | None:
    """Load until all models are ready or the worker has to end.

    return_no_room: lack of memory is returned instead of ending the process.
    """
    settled, no_room = threading.Event(), list[NoRoom]()

    def fail(error: StartError) -> None:
        if not (return_no_room and isinstance(error, NoRoom)):
            on_failure(error)
        else:
            no_room.append(error)
            settled.set()

    worker.models.start_in_background(fail, settled.set)
    _heartbeat_until(worker, settled.is_set)
    return no_room[0] if no_room else None


def _stop_old_master(worker: ServiceWorker, old_master: int) -> None:
    """Stop the old master and wait for it to exit; its worker finishes the admitted requests."""
    if is_parent(old_master, worker.ppid):
        os.kill(old_master, signal.SIGTERM)
    _heartbeat_until(worker, lambda: not is_parent(old_master, worker.ppid))


def _take_over(worker: ServiceWorker, old_master: int | None, notify: Notify) -> None:
    notify(f"MAINPID={worker.ppid}\nREADY=1\nSTATUS=Serving")
    if old_master is not None and is_parent(old_master, worker.ppid):
        log.info("The models are ready: stopping the old master (%d).", old_master)
        os.kill(old_master, signal.SIGTERM)


def _wait_for_predecessors(worker: ServiceWorker) -> None:
    until = time.monotonic() + worker.drain_seconds + PREDECESSOR_GRACE
    if worker.predecessors:
        log.info("Waiting for the old worker to exit before loading; new requests wait meanwhile.")
    _heartbeat_until(worker, lambda: time.monotonic() > until or not any(map(psutil.pid_exists, worker.predecessors)))


def _heartbeat_until(worker: ServiceWorker, done: Callable[[], bool]) -> None:
    """Send heartbeats to Gunicorn and systemd until `done`, a stop signal, or the loss of the master."""
    pause = threading.Event()
    while not done() and worker.alive and not worker.orphaned:
        worker.notify()
        worker.beat()
        pause.wait(HEARTBEAT)
