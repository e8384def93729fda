"""Reads requests from connections in the worker's one polling thread, and hands over those that are whole.

What has come is read of some connections in each round, of each address in turn: who has very many of them holds up
nobody else.

A connection costs a thread only once its request has arrived. Until then it waits here: for its first byte, for the end
of its head, for its body; each wait is bounded. A body is admitted from its Content-Length before any of it is read, or
as it grows; one that finds no room in the budget is handed over unread, to be refused. A connection that is closed by
us lingers first (`serving.lingering`). A request that has begun is answered also where it does not arrive in time,
where its client closes its half of the connection too early, and where an error in its handling ends it, which ends
nothing else. A lack of room, and the end of a stop, close a connection without a word.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from edge import errors
from edge.body_budget import BodyBudget
from edge.gate import NAMING_BYTES, Decision, named
from edge.request_head import RequestHead
from engine.quick_calls import new_buffer
from serving.arrival import Arrival, Unserved
from serving.by_address import ByAddress
from serving.connection import Connection
from serving.framing import RequestBrokenOff, RequestTooSlow, Stage
from serving.lingering import Lingering

# The rate of a slow mobile uplink; an image of 16 MiB then takes at most 17 minutes.
MIN_BYTES_PER_SECOND = 16 * 1024
READ_AT_ONCE, READ_SECONDS = 64, 0.005  # connections in a round, and after how long no other one is read in it
READ_BYTES = 256 * 1024  # from one connection before the next one gets its turn
LOOKED_AT_BYTES = 16 * 1024  # the same where they are looked at one by one: those of heads and chunks
SWEEP_SECONDS = 0.005  # after which a sweep ends no other connection
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Gate(Protocol):
    """Decides which requests are read and served; `edge.gate.Gate`."""

    def judge(self, head: bytes, peer: str, plain: RequestHead | None) -> Decision: ...


class Poller(Protocol):
    """The part of `selectors.BaseSelector` that is used here."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any: ...
    def unregister(self, fileobj: Any) -> Any: ...


class Intake:
    """The connections that no thread serves at the moment. Belongs to the polling thread.

    dispatch: called with a connection whose request is whole, or is to be refused by whoever serves it; closed: called
    when a connection has ended here; failure: returns the response to a request that an error ended, and logs both.
    patience: seconds that a head may take, and a body beyond what its bytes need at the slowest rate; keepalive:
    seconds that a connection may be silent behind a refusal; max_body_bytes: a longer body is not read, since every
    route refuses it. refused: how many requests were refused here.
    """

    def __init__(
        self,
        poller: Poller,
        dispatch: Callable[[Connection], None],
        closed: Callable[[Connection], None],
        failure: Callable[[Unserved, Exception], bytes],
        budget: BodyBudget,
        gate: Gate,
        patience: float,
        max_body_bytes: int,
        keepalive: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poller, self._dispatch, self._closed, self._failure = poller, dispatch, closed, failure
        self._budget, self._gate, self._clock = budget, gate, clock
        self._patience, self._keepalive, self._max_body_bytes = patience, keepalive, max_body_bytes
        self._arriving: dict[Connection, Arrival] = {}  # in the order in which they began to wait
        self._buffer, self._looked_at = new_buffer(READ_BYTES), new_buffer(LOOKED_AT_BYTES)
        self._lingering = Lingering(self._buffer, clock)
        self._unread: ByAddress[Connection] = ByAddress()  # on which something has come, or may have come
        self._silent: ByAddress[Connection] = ByAddress()  # the others that arrive
        self._stopping = False
        self.refused = 0

    def __len__(self) -> int:
        return len(self._arriving) + len(self._lingering)

    @property
    def unread(self) -> int:
        """How many connections wait to be read."""
        return len(self._unread)

    @property
    def unread_addresses(self) -> int:
        """How many addresses these are of."""
        return self._unread.addresses

    def expect(self, conn: Connection, seconds: float, *, fresh: bool = False) -> None:
        """Wait for a connection's next request, at most `seconds` for its first byte.

        fresh: the connection has just been accepted, so that its request may have arrived with it: it is read by
        `read_some` before it is polled, and what is refused there costs no call of the poller.
        """
        self._guarded(conn, partial(self._expect, conn, seconds, fresh))

    def _expect(self, conn: Connection, seconds: float, fresh: bool) -> None:
        now = self._clock()
        arrival = self._arriving[conn] = Arrival(now, now + seconds)
        early, conn.leftover = conn.leftover, b""
        if fresh and not early:
            self._unread.put(conn)
            return
        self._silent.put(conn)
        if early:
            self._guarded(conn, partial(self._take, conn, arrival, early), arrival)
        if self._arriving.get(conn) is arrival:
            self._poll(conn, arrival)

    def _poll(self, conn: Connection, arrival: Arrival) -> None:
        self._poller.register(conn.sock, selectors.EVENT_READ, lambda _: self._on_readable(conn))
        arrival.polled = True

    def _on_readable(self, conn: Connection) -> None:
        if conn in self._arriving or conn in self._lingering:  # else it was given up since the kernel reported it
            self._unread.put(conn)
            self._silent.discard(conn)

    def read_some(self) -> None:
        """Read what has come on some connections, of each address in turn."""
        until = time.monotonic() + READ_SECONDS
        for number in range(READ_AT_ONCE):
            if not self._unread or (number and time.monotonic() >= until):
                break
            self._read_next()

    def read_all(self) -> None:
        """Read what has come on every connection."""
        while self._unread:
            self._read_next()

    def _read_next(self) -> None:
        conn = self._unread.take()
        self._guarded(conn, partial(self._read, conn))

    def _read(self, conn: Connection) -> None:
        arrival = self._arriving.get(conn)
        if arrival is None:
            if self._lingering.ends_with(conn):
                self._end_lingering(conn)
            return
        self._silent.put(conn)
        self._guarded(conn, partial(self._readable, conn), arrival)
        if self._arriving.get(conn) is arrival and not arrival.polled:
            self._poll(conn, arrival)

    def close_behind(self, conn: Connection, was_last: bool) -> None:
        """Close a connection whose request was answered. was_last: whether the client said that it sends no other."""
        if was_last and not self._has_come(conn):
            self._end(conn)
        else:
            self.linger(conn)

    def _has_come(self, conn: Connection) -> bool:
        """Whether something has come that is unread, which the kernel would answer with a reset."""
        try:
            return bool(conn.sock.receive_now(self._looked_at))
        except OSError:  # nothing has, or the client has gone
            return False

    def linger(self, conn: Connection) -> None:
        """Close a connection whose client may still be sending, so that it receives its answer all the same."""
        try:
            conn.sock.end_sending_now()
            self._poller.register(conn.sock, selectors.EVENT_READ, lambda _: self._on_readable(conn))
        except (OSError, ValueError):  # the client has gone
            self._end(conn)
        else:
            self._lingering.add(conn)

    def sweep(self) -> bool:
        """Give up connections whose time is over; return whether there are more, which the next rounds are for.

        What has come on one by then is read first.
        """
        now, until = self._clock(), time.monotonic() + SWEEP_SECONDS
        late = [item for item in self._arriving.items() if now >= item[1].until and item[0] not in self._unread]
        steps = [
            *((conn, partial(self._end_waiting, conn, arrival)) for conn, arrival in late),
            *((conn, partial(self._end_lingering, conn)) for conn in self._lingering.due()),
        ]
        for number, (conn, step) in enumerate(steps):
            if number and time.monotonic() >= until:
                return True
            self._guarded(conn, step)
        return False

    def _end_waiting(self, conn: Connection, arrival: Arrival) -> None:
        if arrival.has_begun:
            self._fail(conn, arrival, RequestTooSlow())
        else:
            self._give_up(conn)

    def cap(self, deadline: float) -> None:
        """At a stop, let no connection without a request wait beyond `deadline`, and keep none behind a refusal."""
        self._stopping = True
        for arrival in self._arriving.values():
            if not arrival.has_begun:
                arrival.until = min(arrival.until, deadline)

    def close_longest_waiting(self, peer: str | None = None, least: float = 0.0) -> bool:
        """Close the connection that has waited longest, for its descriptor; False if it has not for `least` seconds.

        peer: the key of an address, for the one of its connections of which nothing was read for longest. One that is
        yet to be read does not count.
        """
        latest = self._clock() - least
        conn = self._longest_waiting(latest) if peer is None else self._silent.first_of(peer)
        if conn is None or self._arriving[conn].since > latest:
            return False
        self._guarded(conn, partial(self._give_up, conn))
        return True

    def _longest_waiting(self, latest: float) -> Connection | None:
        """Return the first connection that is not yet to be read, of those that began to wait by `latest`."""
        for conn, arrival in self._arriving.items():
            if arrival.since > latest:
                return None
            if conn not in self._unread:
                return conn
        return None

    def close(self) -> None:
        """Give up every connection."""
        for conn in [*self._arriving]:
            self._guarded(conn, partial(self._give_up, conn))
        for conn in self._lingering.due(everything=True):
            self._guarded(conn, partial(self._end_lingering, conn))

    def drop(self, conn: Connection) -> None:
        """Close a connection, wherever its handling was interrupted, and release all that it holds."""
        arrival = self._arriving.get(conn)
        if arrival is not None:
            self._leave(conn)
            arrival.close()
        self._lingering.discard(conn)
        self._unread.discard(conn)
        self._forget(conn)
        self._end(conn)

    def _guarded(self, conn: Connection, step: Callable[[], None], arrival: Arrival | None = None) -> None:
        """Handle a connection; an error ends it. arrival: the request that the error is then the answer to."""
        try:
            step()
        except Exception as error:
            if arrival is None or arrival.answered:
                errors.log_unexpected(error)
                self.drop(conn)
            else:
                self._guarded(conn, partial(self._fail, conn, arrival, error))

    def _fail(self, conn: Connection, arrival: Arrival, error: Exception) -> None:
        """Answer a request that an error ended, wherever that was, and close its connection behind the answer."""
        if conn in self._arriving:
            self._leave(conn)
        arrival.close()
        conn.sock.end_request()
        conn.leftover = b""
        decision = arrival.decision
        account, key_name = ("", "") if decision is None else (decision.client, decision.key_name)
        unserved = Unserved(arrival.framing.head, conn.peer, account=account, key_name=key_name)
        with contextlib.suppress(OSError):  # the client has gone
            conn.sock.send_now(self._failure(unserved, error))
        self.linger(conn)

    def refuse(self, conn: Connection, error: Exception) -> None:
        """Answer a request that was handed over and is given no thread; its connection is closed behind the answer."""
        self.refused += 1
        self._guarded(conn, partial(self._refuse_unserved, conn, error))

    def _refuse_unserved(self, conn: Connection, error: Exception) -> None:
        nothing_unread = conn.sock.request_whole and not conn.leftover
        head, arrived = conn.sock.request_head, conn.sock.arrived
        unserved = Unserved(head, conn.peer, arrived, conn.asked_by, conn.key_name, conn.asked_model)
        conn.sock.end_request()
        conn.leftover = b""
        answer = self._failure(unserved, error)
        with contextlib.suppress(OSError):  # the client has gone
            if conn.sock.send_now(answer) == len(answer) and nothing_unread:
                self._end(conn)
                return
        self.linger(conn)

    def _readable(self, conn: Connection) -> None:
        arrival = self._arriving[conn]
        try:
            data = conn.sock.receive_now(self._buffer if arrival.framing.in_plain_body else self._looked_at)
        except BlockingIOError:
            return
        except OSError:
            self._give_up(conn)
            return
        if data:
            self._take(conn, arrival, data)
        elif not arrival.has_begun:
            self._give_up(conn)
        else:
            self._fail(conn, arrival, RequestBrokenOff())

    def _take(self, conn: Connection, arrival: Arrival, data: bytes) -> None:
        if arrival.began is None:
            arrival.began = self._clock()
        framing, before = arrival.framing, arrival.framing.body_received
        conn.leftover = framing.feed(data)
        arrival.until = arrival.began + self._patience + framing.body_received / MIN_BYTES_PER_SECOND
        if framing.stage is Stage.HEAD:
            return
        if arrival.decision is None and not self._judge(conn, arrival):
            return
        grown = framing.body_received - before if framing.content_length is None else 0
        if framing.stage is Stage.UNSTORED or (grown and not self._admit(arrival, grown)):
            self._hand_over(conn, arrival, refused=True)
        elif framing.stage is not Stage.BODY:
            self._finish(conn, arrival)

    def _finish(self, conn: Connection, arrival: Arrival) -> None:
        """Hand over a request that has arrived, unless it is refused now that its body is known."""
        framing, decision = arrival.framing, arrival.decision
        again = None if decision is None or framing.stage is not Stage.WHOLE else decision.again
        refusal = None
        if again is not None:
            arrival.asked_model = named(framing.body(NAMING_BYTES))
            refusal = again(arrival.asked_model)
        if refusal is None:
            self._hand_over(conn, arrival)
        else:
            self._refuse(conn, arrival, refusal)

    def _judge(self, conn: Connection, arrival: Arrival) -> bool:
        """Decide from the head whether to read on; otherwise the request is refused here or handed over."""
        framing = arrival.framing
        decision = arrival.decision = self._gate.judge(framing.head, conn.peer, framing.plain)
        if decision.refusal is not None:
            self._refuse(conn, arrival, decision.refusal)
            return False
        length = framing.content_length or 0
        if length > self._max_body_bytes:
            self._hand_over(conn, arrival)
            return False
        if length and not self._admit(arrival, length):
            self._hand_over(conn, arrival, refused=True)
            return False
        if framing.expects_continue and framing.stage is Stage.BODY:
            with contextlib.suppress(OSError):
                conn.sock.send_now(CONTINUE)
        return True

    def _refuse(self, conn: Connection, arrival: Arrival, refusal: bytes) -> None:
        """Send a refusal, and wait for the connection's next request where all of this one has arrived."""
        whole = arrival.framing.stage is Stage.WHOLE
        plain = whole and not conn.leftover  # what is sent ahead would be judged in here, without end
        keep = plain and not self._stopping and arrival.decision is not None and arrival.decision.keeps_alive
        arrival.close()
        arrival.answered = True
        self.refused += 1
        try:
            sent = conn.sock.send_now(refusal) == len(refusal)
        except OSError:
            sent = False
        if keep and sent:
            self._expect_again(conn, arrival)
            return
        self._leave(conn)
        if plain and sent:
            self._end(conn)  # nothing is left unread, so the client loses nothing of its answer
        else:
            conn.leftover = b""
            self.linger(conn)

    def _expect_again(self, conn: Connection, answered: Arrival) -> None:
        """Wait for the next request of a connection that stays where it is, at the end of those that wait."""
        del self._arriving[conn]
        now = self._clock()
        self._arriving[conn] = Arrival(now, now + self._keepalive, polled=answered.polled)
        if not answered.polled:
            self._poll(conn, self._arriving[conn])

    def _admit(self, arrival: Arrival, size: int) -> bool:
        if arrival.reservation is None:
            assert arrival.decision is not None  # a body is admitted behind its head
            arrival.reservation = self._budget.reserve(arrival.decision.client, size)
            return arrival.reservation is not None
        return arrival.reservation.grow(size)

    def _hand_over(self, conn: Connection, arrival: Arrival, refused: bool = False) -> None:
        assert arrival.decision is not None  # what has arrived has been judged
        self._leave(conn)
        conn.asked_by = client = arrival.decision.client
        conn.key_name, conn.asked_model = arrival.decision.key_name, arrival.asked_model
        # A request without a body has room of its own too: what is stored and read for it counts like one.
        reservation = arrival.reservation or self._budget.reserve(client, 0)
        conn.sock.begin_request(arrival.framing, reservation, refused)
        self._dispatch(conn)

    def _give_up(self, conn: Connection) -> None:
        arrival = self._arriving[conn]
        self._leave(conn)
        arrival.close()
        self._end(conn)

    def _leave(self, conn: Connection) -> None:
        arrival = self._arriving.pop(conn)
        self._unread.discard(conn)
        self._silent.discard(conn)
        if arrival.polled:
            self._forget(conn)

    def _end_lingering(self, conn: Connection) -> None:
        self._lingering.discard(conn)
        self._unread.discard(conn)
        self._forget(conn)
        self._end(conn)

    def _forget(self, conn: Connection) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError):  # a socket that is closed already
            self._poller.unregister(conn.sock)

    def _end(self, conn: Connection) -> None:
        if not conn.closed:
            conn.close()
            self._closed(conn)
