"""Accepting connections: before what has come on them is read, and on through a lack of descriptors, memory or room.

Who comes behind a crowd of connections of another address waits neither in the backlog nor for what has come on those.
Out of descriptors or connections, one that waits is closed for the next, and accepting pauses where that does not help.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter

from gunicorn.workers.gthread import ThreadWorker

from edge import errors
from engine.quick_calls import accept_now
from serving.connection import ClientSocket, Connection, budget_key_of
from serving.intake import READ_AT_ONCE, Intake
from serving.listener import Listener
from serving.slow_readers import SlowReaders

# Nobody to accept, or a connection that has failed already; accept(2) names the latter.
NOT_A_CLIENT = {
    *(errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED, errno.ECONNRESET, errno.EPERM, errno.EPROTO),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOPROTOOPT, errno.ETIMEDOUT),
}
# Errors of accept that time cures, for how long it is not tried again, and how often that is logged, in seconds.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ACCEPT_PAUSE = 0.5
EXHAUSTION_LOGGED = 60.0
ACCEPTED_AT_ONCE, AT_LEAST = 256, 32  # in a round
LOOKED_AT_AT_ONCE = 1024  # also those of addresses that have too many, which are closed at once


class AcceptingWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, whose accept never ends the worker for what a client or the system lacks.

    send_timeout: the setting; _intake: where an accepted connection waits for its request; _most_of_a_peer: how many
    connections one address, or one /64 of IPv6, may have, None for any number: beyond it the one of these that has
    waited longest for a request is closed, or the new one where none waits.
    """

    send_timeout = 30.0
    _intake: Intake
    _most_of_a_peer: int | None = None
    _admitted = 0  # connections so far

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._accept_again = 0.0
        self._exhaustion_logged = -EXHAUSTION_LOGGED
        self._addresses: dict[Listener, object] = {}  # of the listening sockets
        self._slow_readers = SlowReaders(max(1, self.cfg.threads // 2))
        self._peers: Counter[str] = Counter()  # connections by the key of their address

    def accept(self, listener: Listener) -> None:
        """Accept some of the connections that there are.

        With a round's work of unread ones that come before them in any case, these are few, and the rest waits behind
        them in the backlog.
        """
        before = self._admitted
        for _ in range(LOOKED_AT_AT_ONCE):
            if not self._accept(listener) or self.nr_conns >= self.worker_connections:
                break
            if self._admitted - before >= (AT_LEAST if self._enough_unread else ACCEPTED_AT_ONCE):
                break

    @property
    def _enough_unread(self) -> bool:
        """Whether whoever comes next is not read in the next round. Behind a proxy all are of one address."""
        before = self._intake.unread if self._most_of_a_peer is None else self._intake.unread_addresses
        return before >= READ_AT_ONCE

    def forget(self, conn: Connection) -> None:
        """Count a connection that has ended no longer."""
        self.nr_conns -= 1
        self._peers[conn.budget_key] -= 1
        if not self._peers[conn.budget_key]:
            del self._peers[conn.budget_key]

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections, or not; not while accepting is paused."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_again)

    def accept_all(self, listener: Listener) -> None:
        """Accept every connection that there is, and read what has come on each."""
        self._intake.read_all()
        while self._accept(listener):
            self._intake.read_all()

    def _accept(self, listener: Listener) -> bool:
        """Accept a connection; False where there is none to accept."""
        try:
            accepted, address = accept_now(listener)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._make_room(error)
            elif error.errno not in NOT_A_CLIENT:
                raise
            return False
        except MemoryError:
            self._make_room(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
            return False
        client, peer = accepted, budget_key_of(address)
        if not self._has_room_for(peer):
            accepted.close()
            return True
        try:
            client = ClientSocket(accepted, self.send_timeout, self._slow_readers, peer)
            if listener not in self._addresses:
                self._addresses[listener] = listener.getsockname()
            conn = Connection(self.cfg, client, address, self._addresses[listener])
        except Exception as error:
            errors.log_unexpected(error)
            client.close()
            return True
        self.nr_conns += 1
        self._admitted += 1
        self._peers[peer] += 1
        if self.nr_conns >= self.worker_connections:
            self._intake.make_room()
        self._intake.expect(conn, self.send_timeout, fresh=True)
        return True

    def _has_room_for(self, peer: str) -> bool:
        """Return whether an address may have one more; where one of its own waits, that is closed for it."""
        most = self._most_of_a_peer
        return most is None or self._peers[peer] < most or self._intake.close_longest_waiting(peer)

    def _make_room(self, error: OSError) -> None:
        """Close a connection that waits; leave new ones in the backlog where that does not help.

        Those that are yet to be read may turn out to be silent: then accepting goes on in the next round.
        """
        now = time.monotonic()
        if now >= self._exhaustion_logged + EXHAUSTION_LOGGED:
            self._exhaustion_logged = now
            self.log.warning("No connection can be accepted: %s. Those that wait are closed.", error.strerror)
        if self._intake.make_room() and error.errno == errno.EMFILE:
            return
        if self._intake.unread:
            return
        self._accept_again = now + ACCEPT_PAUSE
        self.set_accept_enabled(False)
