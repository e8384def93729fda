"""The Gunicorn worker: gthread with bounded connections, a drain that goes on answering, and a watchdog's beat.

What differs from gthread, and why:
- a new connection waits for its first byte in the poller, not in a thread, and all its waits are bounded;
- a connection is closed in the thread that served it: gthread lingers up to 2 s for the client's own close in the
  one thread that accepts, so a single lazy client would delay every other;
- at SIGTERM the listening socket stays open while admitted requests finish, and newcomers hear a typed 503 instead of
  hanging in the backlog; with a successor on the same socket it is left to that one at once. Without one, whoever has
  connected by the end of the drain is answered, and whoever comes later is refused by the kernel, so that a proxy
  knows that nothing was begun. Before all that, readiness can say no for a while in which requests are still taken.
"""

from __future__ import annotations

import errno
import os
import selectors
import sys
import time
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

import psutil
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from engine.errors import StartError
from models import ModelSet
from serving.connection import ClientSocket, Connection
from serving.listener import end_listening, listen_again

# How often a stopping worker looks whether its requests are done, in seconds.
DRAIN_TICK = 0.1
NOT_A_CLIENT = (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED)


class ServiceWorker(ThreadWorker):  # type: ignore[misc]
    """One process with both models. The hooks of `gunicorn_config` set the attributes below after the fork.

    predecessors: the workers of this master that were alive at the fork; beat: called about once a second; on_drain:
    called when a drain begins that no successor shortens; send_timeout, drain_delay, drain_seconds: the settings.
    lost: whether it ends because only a new process can help.
    """

    wsgi: Any = None
    predecessors: tuple[int, ...] = ()
    send_timeout = 30.0
    drain_delay = 0.0
    drain_seconds = 60.0
    beat: Callable[[], None] = staticmethod(lambda: None)
    on_drain: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._drain_until: float | None = None
        self._refuse_at = 0.0
        self._refusing = False
        self._aborted = False
        self.lost = False

    @property
    def models(self) -> ModelSet:
        """The application's models; none before it is built."""
        return self.wsgi.extensions["services"].models if self.wsgi is not None else ModelSet({})

    @property
    def orphaned(self) -> bool:
        """True once the master that made this worker is gone."""
        return bool(self.ppid != os.getppid())

    def load_wsgi(self) -> None:
        """Build the application; where it says why it cannot start, that sentence is all that is shown."""
        try:
            super().load_wsgi()
        except StartError as error:
            self.log.critical("The service cannot start: %s", error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def run(self) -> None:
        """Serve; listens anew where a worker before this one has ended that."""
        for listener in self.sockets:
            listen_again(listener, self.cfg.backlog)
        super().run()

    def accept(self, listener: Any) -> None:
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno not in NOT_A_CLIENT:
                raise
            return
        self.nr_conns += 1
        client = ClientSocket(accepted, self.send_timeout)
        self._await_first_byte(Connection(self.cfg, client, address, listener.getsockname()))

    def handle(self, conn: Connection) -> Any:
        """Serve one request in a context of its own, so that no line of it carries an earlier request's id."""
        conn.sock.begin_request()
        keep = Context().run(super().handle, conn)
        if keep is False:
            conn.close(graceful=True)
        return keep

    def handle_exit(self, sig: int, frame: Any) -> None:
        """At SIGTERM: begin the drain in the main loop; a worker that serves nobody yet just ends."""
        if self.booted:
            self.method_queue.defer(self._begin_drain)
        else:
            self.alive = False

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        super().wait_for_and_dispatch_events(timeout if self._drain_until is None else min(timeout, DRAIN_TICK))
        self.beat()
        if not self.lost and not self.models.loading and self.models.restart_needed:
            self._give_up()
        if self._drain_until is not None:
            self._drain(self._drain_until)

    def _await_first_byte(self, conn: Connection) -> None:
        conn.timeout = time.monotonic() + self.send_timeout
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _begin_drain(self) -> None:
        if self._drain_until is not None:
            return
        self._refuse_at = time.monotonic() + self.drain_delay
        self._drain_until = self._refuse_at + self.drain_seconds
        if has_sibling(self.ppid):
            self.log.info("Leaving new connections to the next worker and finishing the admitted requests.")
            self.alive = False
            return
        self.on_drain()
        if self.drain_delay:
            self.log.info("Readiness says that this service stops; requests are taken for %g s more.", self.drain_delay)
            self.models.announce_stop()
        else:
            self._refuse()

    def _refuse(self) -> None:
        self._refusing = True
        self.log.info("Finishing the admitted requests; new ones are refused.")
        self.models.drain()

    def _give_up(self) -> None:
        """A model can only be cured by a new process: answer what is still open, and end for the supervisor."""
        self.log.critical("A model needs a new process: ending the service, for its supervisor to start it again.")
        self.lost = True
        self._drain_until = time.monotonic()

    def _drain(self, until: float) -> None:
        """End when nothing is left to do; what has not finished in time is aborted and hears so."""
        if not self.alive:
            return
        now = time.monotonic()
        if now >= self._refuse_at and not self._refusing:
            self._refuse()
        if now >= until and not self._aborted:
            self._aborted = True
            self.models.stop(timeout=0.0)
        if self._aborted or (self._refusing and self.models.idle):
            self._stop_listening()
            self.alive = False

    def _stop_listening(self) -> None:
        """Accept who has connected, to be answered, and have the kernel refuse who comes later."""
        self.set_accept_enabled(False)
        if has_sibling(self.ppid):
            return
        for listener in self.sockets:
            end_listening(listener, partial(self._accept_all, listener))

    def _accept_all(self, listener: Any) -> None:
        accepted = -1
        while accepted != self.nr_conns:
            accepted = self.nr_conns
            self.accept(listener)

    def _cap_keepalive(self, deadline: float) -> None:
        """Wait for a silent connection no longer than for a kept-alive one, once the worker stops."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)


def has_sibling(parent: int) -> bool:
    """True if this process's parent has another child: a new worker, or the new master that SIGUSR2 made."""
    try:
        children = psutil.Process(parent).children()
        return any(child.pid != os.getpid() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    except psutil.Error:
        return False
