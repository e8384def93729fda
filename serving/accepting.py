"""Accepting connections: some at a time, and on through a lack of descriptors, memory or room.

Out of descriptors or connections, the longest silent one is closed for the next, and accepting pauses where that does
not help. All that there are are accepted at once, which takes little; what is read of them comes later, and of an
address with a crowd of them only a few in each round: the probe of somebody else is not behind all of those.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter, deque
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from edge import errors
from engine.quick_calls import accept_now
from serving.connection import ClientSocket, Connection, budget_key_of
from serving.intake import Intake
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
ACCEPTED_AT_ONCE = 1024  # also those of addresses that have too many, which are closed at once
READ_AT_ONCE = 32  # connections, of those that were accepted, and of those that are readable of crowds
CROWD = 32  # connections of one address; with more it is a crowd

_Accepted = tuple[Any, Any, Listener, str]  # a socket, its client's address, who listened, and the key of the address


class AcceptingWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, whose accept never ends the worker for what a client or the system lacks.

    send_timeout: the setting; _intake: where an accepted connection waits for its request; _most_of_a_peer: how many
    connections one address, or one /64 of IPv6, may have, None for any number: beyond it the one of these that has
    waited longest for a request is closed, or the new one where none waits.
    """

    send_timeout = 30.0
    _intake: Intake
    _most_of_a_peer: int | None = None

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._accept_again = 0.0
        self._exhaustion_logged = -EXHAUSTION_LOGGED
        self._addresses: dict[Listener, object] = {}  # of the listening sockets
        self._slow_readers = SlowReaders(max(1, self.cfg.threads // 2))
        self._peers: Counter[str] = Counter()  # connections by the key of their address
        self._accepted: tuple[deque[_Accepted], deque[_Accepted]] = deque(), deque()  # not read yet; those of crowds

    def accept(self, listener: Listener) -> None:
        """Accept the connections that there are, for `begin_some`."""
        for _ in range(ACCEPTED_AT_ONCE):
            if not self._accept(listener) or self.nr_conns >= self.worker_connections:
                break

    def begin_some(self) -> None:
        """Read what has come on some connections that were accepted, those of crowds last; once in each round."""
        left = READ_AT_ONCE
        for line in self._accepted:
            while line and left:
                left -= 1
                self._begin_one(line.popleft())

    @property
    def more_accepted(self) -> bool:
        """Whether connections were accepted of which nothing is read yet."""
        return any(self._accepted)

    def is_crowd(self, peer: str) -> bool:
        """Return whether an address has a crowd of connections. Behind a proxy all are of one address, and none has."""
        return self._most_of_a_peer is not None and self._peers[peer] > CROWD

    def forget(self, conn: Connection) -> None:
        """Count a connection that has ended no longer."""
        self._count_out(conn.budget_key)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections, or not; not while accepting is paused."""
        super().set_accept_enabled(enabled and time.monotonic() >= self._accept_again)

    def close_accepted(self) -> None:
        """Close the connections of which nothing was read."""
        for line in self._accepted:
            while line:
                client, _, _, peer = line.popleft()
                client.close()
                self._count_out(peer)

    def accept_all(self, listener: Listener) -> None:
        """Accept every connection that there is, and read what has come on it."""
        while self._accept(listener):
            pass
        for line in self._accepted:
            while line:
                self._begin_one(line.popleft())

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
        peer = budget_key_of(address)
        if not self._has_room_for(peer):
            accepted.close()
            return True
        self.nr_conns += 1
        self._peers[peer] += 1
        self._accepted[self.is_crowd(peer)].append((accepted, address, listener, peer))
        if self.nr_conns >= self.worker_connections:
            self._intake.close_longest_waiting()
        return True

    def _begin_one(self, one: _Accepted) -> None:
        client, address, listener, peer = one
        try:
            client = ClientSocket(client, self.send_timeout, self._slow_readers, peer)
            if listener not in self._addresses:
                self._addresses[listener] = listener.getsockname()
            conn = Connection(self.cfg, client, address, self._addresses[listener])
        except Exception as error:
            errors.log_unexpected(error)
            client.close()
            self._count_out(peer)
        else:
            self._intake.expect(conn, self.send_timeout, fresh=True)

    def _count_out(self, peer: str) -> None:
        self.nr_conns -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]

    def _has_room_for(self, peer: str) -> bool:
        """Return whether an address may have one more; where one of its own waits, that is closed for it."""
        most = self._most_of_a_peer
        return most is None or self._peers[peer] < most or self._intake.close_longest_waiting(peer)

    def _make_room(self, error: OSError) -> None:
        """Close the connection that has waited longest; leave new ones in the backlog where that does not help."""
        now = time.monotonic()
        if now >= self._exhaustion_logged + EXHAUSTION_LOGGED:
            self._exhaustion_logged = now
            self.log.warning("No connection can be accepted: %s. The longest silent ones are closed.", error.strerror)
        if self._intake.close_longest_waiting() and error.errno == errno.EMFILE:
            return
        self._accept_again = now + ACCEPT_PAUSE
        self.set_accept_enabled(False)
