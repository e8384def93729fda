"""Notifications to systemd (sd_notify(3)): readiness, the main pid and watchdog keep-alives.

Gunicorn would send READY=1 before its worker has loaded anything, and never reports a new master. NOTIFY_SOCKET is
therefore removed from its environment, and the worker sends these messages. The unit needs `NotifyAccess=all`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("avito_ai.serving")

Notify = Callable[[str], None]

SERVING = "serving"


def notifier(address: str | None, folder: str | None = None) -> Notify:
    """Return a function that sends a message to systemd's socket; without an address it does nothing.

    folder: the unit's directory under /run. Its file `serving` holds the pid of the master whose models are ready, for
    `deploy.reload`, since systemd shows notifications to root only.
    """

    def notify(message: str) -> None:
        if not address:
            return
        if folder and "READY=1" in message.splitlines():
            Path(folder, SERVING).write_text(f"{os.getppid()}\n", encoding="ascii")
        path = f"\0{address[1:]}" if address.startswith("@") else address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.connect(path)
                channel.sendall(message.encode())
        except OSError as error:
            log.warning("systemd could not be sent %r: %s.", message, error.strerror)

    return notify


class Watchdog:
    """Sends keep-alives for systemd's WatchdogSec, until a restart is needed.

    interval: half of WATCHDOG_USEC, in seconds.
    """

    def __init__(
        self,
        notify: Notify,
        interval: float,
        restart_needed: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notify = notify
        self._interval = interval
        self._restart_needed = restart_needed
        self._clock = clock
        self._last = -interval
        self._silent = False

    def beat(self) -> None:
        """Send a keep-alive if one is due and no restart is needed."""
        now = self._clock()
        if now - self._last < self._interval:
            return
        self._last = now
        if not self._restart_needed():
            self._notify("WATCHDOG=1")
        elif not self._silent:
            self._silent = True
            log.error("A model needs a restart: no further watchdog keep-alives are sent.")
