"""Accepting connections: before anything else happens to them, and on through a lack of descriptors, memory or room.

While there is room, who comes behind a crowd of another address waits neither in the backlog nor until something is
done for that crowd: of those that were accepted, each address has its turn, and one that has as many connections as it
may have waits, for some time.
Out of descriptors or connections, one that waits is closed for the next, and accepting pauses where that does not help.
"""

from __future__ import annotations

import errno
import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from edge import errors
from engine.quick_calls import accept_now
from serving.by_address import ByAddress
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
SILENT_SECONDS = 1.0  # after which a connection without a request may be closed for another one
ACCEPTED_MOST = 2048  # that have not begun to wait for a request; as many as a backlog of the kernel


@dataclass(slots=True, eq=False)
class _Accepted:
    """A connection of which nothing is read yet; `socket` is that of `accept`."""

    socket: Any
    address: object
    listener: Listener
    budget_key: str
    since: float


class AcceptingWorker(ThreadWorker):  # type: ignore[misc]
    """gthread, whose accept never ends the worker for what a client or the system lacks.

    send_timeout: the setting; _intake: where an accepted connection waits for its request; _most_of_a_peer: how many
    connections one address, or one /64 of IPv6, may have, None for any number: beyond it the one of these that has
    waited longest for a request is closed, or the next one waits where none does. _most_accepted: how many may be
    accepted that do not count yet.
    """

    send_timeout = 30.0
    _intake: Intake
    _most_of_a_peer: int | None = None
    _most_accepted = ACCEPTED_MOST

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self._accept_again = 0.0
        self._exhaustion_logged = -EXHAUSTION_LOGGED
        self._addresses: dict[Listener, object] = {}  # of the listening sockets
        self._slow_readers = SlowReaders(max(1, self.cfg.threads // 2))
        self._peers: Counter[str] = Counter()  # connections by the key of their address
        self._accepted: ByAddress[_Accepted] = ByAddress()  # that are not among these yet
        self._kept_waiting = 0  # how many of them had no room when they last had their turn

    def accept(self, listener: Listener) -> None:
        """Accept some of the connections that there are.

        With a round's work of others that come before them in any case, these are few, and the rest waits behind them
        in the backlog.
        """
        for number in range(1, ACCEPTED_AT_ONCE + 1):
            if not self._accept(listener) or (number >= AT_LEAST and self._enough_to_do):
                break

    @property
    def _enough_to_do(self) -> bool:
        """Whether whoever comes next is not read in the next round. Behind a proxy all are of one address."""
        if self._most_of_a_peer is None:
            before = len(self._accepted) + self._intake.unread
        else:
            before = self._accepted.addresses + self._intake.unread_addresses
        return before >= READ_AT_ONCE

    def begin_some(self) -> bool:
        """Wait for requests on some that were accepted, of each address in turn; return whether more may begin."""
        begun, full = 0, set[str]()
        while len(full) < self._accepted.addresses and begun < READ_AT_ONCE:
            address = self._accepted.next_address
            if address in full or not self._has_room_for(address):
                full.add(address)
                self._accepted.pass_turn()
                continue
            if self.nr_conns + 1 >= self.worker_connections:
                self._intake.close_longest_waiting(least=SILENT_SECONDS)
            if self.nr_conns >= self.worker_connections:
                break
            self._expect_of(self._accepted.take())
            begun += 1
        more = begun == READ_AT_ONCE
        self._kept_waiting = 0 if more else len(self._accepted)
        return more

    def sweep_accepted(self) -> None:
        """Close those that have had no room for so long that they would be closed if they were silent."""
        before = time.monotonic() - self.send_timeout
        for one in [one for one in self._accepted if one.since < before]:
            self._close_accepted(one)

    def begin_all(self) -> None:
        """Wait for the requests of all that were accepted, however many these are."""
        while self._accepted:
            self._expect_of(self._accepted.take())

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
        self.begin_all()
        while self._accept(listener):
            self.begin_all()
            self._intake.read_all()

    def _accept(self, listener: Listener) -> bool:
        """Accept a connection; False where there is none to accept."""
        try:
            client, address = accept_now(listener)
        except OSError as error:
            if error.errno in EXHAUSTED:
                self._make_room(error)
            elif error.errno not in NOT_A_CLIENT:
                raise
            return False
        except MemoryError:
            self._make_room(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
            return False
        self._accepted.put(_Accepted(client, address, listener, budget_key_of(address), time.monotonic()))
        if len(self._accepted) > self._most_accepted:
            self._close_last_of_most()
        return True

    def _expect_of(self, one: _Accepted) -> None:
        client = one.socket
        try:
            client = ClientSocket(client, self.send_timeout, self._slow_readers, one.budget_key)
            if one.listener not in self._addresses:
                self._addresses[one.listener] = one.listener.getsockname()
            conn = Connection(self.cfg, client, one.address, self._addresses[one.listener])
        except Exception as error:
            errors.log_unexpected(error)
            client.close()
            return
        self.nr_conns += 1
        self._peers[one.budget_key] += 1
        self._intake.expect(conn, self.send_timeout, fresh=True)

    def _close_last_of_most(self, least: int = 1) -> bool:
        """Close the last one that was accepted of the address with most of these; False where it has not `least`."""
        last = self._accepted.last_of_most()
        if last is None or self._accepted.number_of(last.budget_key) < least:
            return False
        self._close_accepted(last)
        return True

    def _close_accepted(self, one: _Accepted) -> None:
        self._accepted.discard(one)
        one.socket.close()

    def _has_room_for(self, peer: str) -> bool:
        """Return whether an address may have one more; where one of its own is silent, that is closed for it."""
        most = self._most_of_a_peer
        return most is None or self._peers[peer] < most or self._intake.close_longest_waiting(peer, SILENT_SECONDS)

    def _make_room(self, error: OSError) -> None:
        """Close one of a crowd, or one that waits silently; leave new ones in the backlog where that does not help.

        Those of which nothing is known yet may turn out to be silent: then accepting goes on in the next round.
        """
        now = time.monotonic()
        if now >= self._exhaustion_logged + EXHAUSTION_LOGGED:
            self._exhaustion_logged = now
            self.log.warning("No connection can be accepted: %s. Those that wait are closed.", error.strerror)
        closed = self._close_last_of_most(READ_AT_ONCE) or self._intake.close_longest_waiting()
        untried = self._intake.unread or len(self._accepted) > self._kept_waiting
        if error.errno == errno.EMFILE and (closed or untried):
            return
        self._accept_again = now + ACCEPT_PAUSE
        self.set_accept_enabled(False)
