"""What systemd is told, in its notification protocol (sd_notify(3)): ready, who is the master, and the watchdog's beat.

Gunicorn would say READY=1 before its worker has loaded anything and never names a new master, so the variable is taken
away from it and these messages come from the worker that has loaded. The unit needs `NotifyAccess=all`.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

Notify = Callable[[str], None]

SERVING = "serving"


def notifier(address: str | None, folder: str | None = None) -> Notify:
    """Return a function that sends a message to systemd's socket; without an address it does nothing.

    folder: the unit's own under /run, where the file `serving` names the master whose models are ready, for
    `deploy.reload`: systemd shows nobody but root what it was told.
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
            log.warning("systemd was not told %r: %s.", message, error.strerror)

    return notify


class Watchdog:
    """Beats for systemd's WatchdogSec while a restart would not help; silence is what asks for the restart.

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
        """Say that the service lives, if it is time to and if it does."""
        now = self._clock()
        if now - self._last < self._interval:
            return
        self._last = now
        if not self._restart_needed():
            self._notify("WATCHDOG=1")
        elif not self._silent:
            self._silent = True
            log.error("A model needs a restart: the watchdog hears no more of this worker.")
