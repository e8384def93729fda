"""Connections that no thread serves: read in the poller, handed over when their request is whole, bounded in all."""

import errno
import math
import os
import selectors
import socket
import struct
from types import SimpleNamespace

import pytest

from edge.body_budget import BodyBudget
from edge.gate import Decision
from engine.errors import Overloaded
from serving import intake, lingering
from serving.connection import ClientSocket, Connection, budget_key_of
from serving.framing import Framing, RequestBrokenOff, RequestTooSlow, Stage
from serving.intake import (
    CONTINUE,
    LOOKED_AT_BYTES,
    MIN_BYTES_PER_SECOND,
    READ_AT_ONCE,
    READ_SECONDS,
    Intake,
)
from serving.lingering import LINGER_SECONDS
from tests.fakes import Clock

PATIENCE = 10.0
KEEPALIVE = 5.0
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\n\r\n"
SMALL = b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
NAMING = b'{"model": "avision"}'
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


class Gate:
    """Judges as told; remembers the heads."""

    def __init__(self):
        self.refusal, self.heads, self.keeps_alive, self.again = None, [], False, None
        self.client, self.key_name = None, ""

    def judge(self, head, peer, plain):
        self.heads.append(head)
        return Decision(self.client or peer, self.refusal, self.keeps_alive, self.again, self.key_name)


class Room:
    """An intake over real sockets and a clock that stands still; `pump` lets the poller have its turn."""

    def __init__(self, total=1000, per_client=600, max_body_bytes=1_000_000):
        self.clock, self.gate, self.selector = Clock(), Gate(), selectors.DefaultSelector()
        self.budget = BodyBudget(total, per_client)
        self.whole, self.closed, self.clients, self.failures = [], [], [], []
        self.intake = Intake(
            self.selector,
            self.whole.append,
            self.closed.append,
            self.failed,
            self.budget,
            self.gate,
            PATIENCE,
            max_body_bytes,
            KEEPALIVE,
            self.clock,
        )

    def failed(self, unserved, error):
        """Note what is to be answered for an error."""
        self.failures.append((unserved.head, unserved.peer, type(error)))
        self.unserved = unserved
        return FAILURE

    def connect(self, peer="1.2.3.4", seconds=PATIENCE):
        """Return a new connection, and the client's end of it."""
        ours, client = socket.socketpair()
        client.settimeout(PATIENCE)
        conn = Connection(None, ClientSocket(ours, PATIENCE), (peer, 1), None)
        self.clients.append(client)
        self.intake.expect(conn, seconds)
        return conn, client

    def pump(self):
        """Handle everything that the sockets have for us."""
        self.look()
        while self.intake.unread:
            self.intake.read_some()
            self.look()

    def look(self):
        """Have the intake told of what has come."""
        for key, _ in self.selector.select(0):
            key.data(key.fileobj)

    def close(self):
        self.intake.close()
        for conn in self.whole:
            conn.close()
        for client in self.clients:
            client.close()
        self.selector.close()


@pytest.fixture
def room(monkeypatch):
    """Make rooms, whose rounds end by their number of connections alone; in the end nothing is left open."""
    monkeypatch.setattr(intake, "READ_SECONDS", math.inf)  # a busy machine takes any time
    made = []

    def make(**options):
        made.append(Room(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("left", [False, True])
def test_what_no_thread_is_given_is_answered_in_here(room, left):
    """The client receives it, though the socket waited for a thread that would write; the connection is closed."""
    room = room()
    room.gate.client, room.gate.key_name, room.gate.again = "key:1", "shop", lambda asked: None
    conn, client = room.connect()
    client.sendall(SMALL.replace(b"hello", NAMING).replace(b" 5", b" %d" % len(NAMING)))
    room.pump()
    assert room.whole == [conn]
    conn.sock.setblocking(True)
    if left:
        client.close()
    room.intake.refuse(conn, Overloaded("busy"))
    (head, _, kind) = room.failures[0]
    assert head.startswith(b"POST / HTTP/1.1\r\n")
    assert kind is Overloaded
    assert room.unserved.arrived == conn.sock.arrived > 0.0
    assert (room.unserved.account, room.unserved.key_name, room.unserved.asked_model) == ("key:1", "shop", "avision")
    if not left:
        assert client.recv(1000) == FAILURE
        client.close()
    for _ in range(3):
        room.pump()
    assert room.closed == [conn]
    assert room.intake.refused == 1
    assert room.budget.in_flight == 0


def read(conn):
    """All that the thread which serves the request reads."""
    return b"".join(iter(lambda: conn.sock.recv(7), b""))


def test_a_request_is_handed_over_when_it_is_whole(room):
    """Not before, and with every byte of it; the thread that serves it reads nothing from the network."""
    room = room()
    conn, client = room.connect()
    for byte in SMALL:
        assert room.whole == []
        client.sendall(bytes([byte]))
        room.pump()
    assert room.whole == [conn]
    assert read(conn) == SMALL
    assert conn.sock.request_whole
    assert len(room.intake) == 0


def test_whose_request_it_is_is_known_when_it_is_handed_over(room):
    """The gate has read it from the head: the address may be a proxy's, or many keys may share it."""
    room = room()
    room.gate.client = "a key"
    conn, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    assert (room.whole, conn.asked_by) == ([conn], "a key")


def test_requests_that_arrive_together_are_served_in_turn(room):
    """What arrives behind a request is kept for when that one has been answered."""
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL + SMALL + b"GET / ")
    room.pump()
    assert read(conn) == SMALL
    for served in (2, 3):
        conn.sock.end_request()
        room.intake.expect(conn, PATIENCE)
        if served == 3:
            client.sendall(b"HTTP/1.1\r\n\r\n")
            room.pump()
        assert len(room.whole) == served
        assert read(conn) == (SMALL if served == 2 else b"GET / HTTP/1.1\r\n\r\n")


def test_a_head_that_does_not_end_is_answered_in_the_end(room):
    """A byte now and then does not extend the time."""
    room = room()
    _, client = room.connect()
    client.sendall(b"GET / HTTP/1.1\r\n")
    room.pump()
    for _ in range(3):
        room.clock.advance(PATIENCE / 4)
        client.sendall(b"A: b\r\n")
        room.pump()
        room.intake.sweep()
        assert len(room.intake) == 1
    room.clock.advance(PATIENCE / 2)
    room.intake.sweep()
    assert room.failures == [(b"GET / HTTP/1.1\r\n" + 3 * b"A: b\r\n", "1.2.3.4", RequestTooSlow)]
    assert client.recv(1000) == FAILURE
    room.clock.advance(LINGER_SECONDS)
    room.intake.sweep()
    assert len(room.closed) == 1
    assert client.recv(10) == b""


def test_of_very_many_that_are_late_each_is_given_up_but_not_all_at_once(room, monkeypatch):
    """Probes wait for the thread that answers them, so a round of it ends one where the time of a round is over."""
    monkeypatch.setattr(intake, "SWEEP_SECONDS", 0.0)
    room = room()
    for number in range(3):
        _, client = room.connect(f"1.2.3.{number}")
        client.sendall(b"GET")
    room.connect("1.2.4.1")
    room.pump()
    room.clock.advance(PATIENCE + 1)
    seen = [(room.intake.sweep(), len(room.failures), len(room.closed)) for _ in range(4)]
    assert seen == [(True, 1, 0), (True, 2, 0), (True, 3, 0), (False, 3, 1)]
    room.clock.advance(LINGER_SECONDS)
    assert [(room.intake.sweep(), len(room.closed)) for _ in range(3)] == [(True, 2), (True, 3), (False, 4)]


@pytest.mark.parametrize("sent", [b"G", SMALL[:-1], CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n0\r\n"])
def test_a_client_that_ends_within_its_request_is_told_so(room, sent):
    """It may be waiting for an answer, with its half of the connection closed; what it holds is free again."""
    room = room()
    _, client = room.connect()
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    room.pump()
    assert [kind for _, _, kind in room.failures] == [RequestBrokenOff]
    assert b"".join(iter(lambda: client.recv(1000), b"")) == FAILURE
    assert (room.whole, len(room.intake), len(room.closed), room.budget.in_flight) == ([], 0, 1, 0)


@pytest.mark.parametrize("sent", [b"", SMALL, b"\r\n", b"\n", b"\r\n\r"])
def test_a_client_that_ends_between_two_requests_is_told_nothing(room, sent):
    """There is nothing to answer; empty lines behind a request are passed over."""
    room = room()
    conn, client = room.connect()
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    room.pump()
    if room.whole:
        conn.sock.end_request()
        room.intake.expect(conn, KEEPALIVE)
        room.pump()
    assert (room.failures, len(room.closed), client.recv(10)) == ([], 1, b"")


def test_empty_lines_behind_a_request_are_no_request_that_is_late(room):
    """Their connection ends as one that is silent does."""
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL + b"\r\n")
    room.pump()
    conn.sock.end_request()
    room.intake.expect(conn, KEEPALIVE)
    room.clock.advance(PATIENCE + 1)
    room.intake.sweep()
    assert (room.failures, len(room.closed), client.recv(10)) == ([], 1, b"")


def test_a_client_that_resets_its_connection_within_its_request_is_told_nothing(room):
    """Nobody would read it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    room = room()
    conn = Connection(None, ClientSocket(ours, PATIENCE), ("1.2.3.4", 1), None)
    client.sendall(b"GET")
    room.intake.expect(conn, PATIENCE, fresh=True)
    room.pump()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    room.pump()
    assert (room.failures, room.closed) == ([], [conn])


def test_a_body_may_take_the_time_that_its_bytes_need(room):
    """A slow uplink is served; one that is slower than that is given up, and its bytes are free again."""
    room = room(total=10**8, per_client=10**8)
    _, client = room.connect()
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + b"x" * 10 * MIN_BYTES_PER_SECOND)
    room.pump()
    room.clock.advance(PATIENCE + 9)
    room.intake.sweep()
    assert (len(room.intake), room.budget.in_flight) == (1, 900000)
    room.clock.advance(2)
    room.intake.sweep()
    assert ([kind for _, _, kind in room.failures], room.budget.in_flight) == ([RequestTooSlow], 0)


def test_a_silent_connection_is_given_up(room):
    """Also one that has been served before, after its own time."""
    room = room()
    room.connect(seconds=75.0)
    room.clock.advance(74)
    room.intake.sweep()
    assert len(room.intake) == 1
    room.clock.advance(2)
    room.intake.sweep()
    assert len(room.intake) == 0


def test_a_client_that_leaves_is_forgotten(room):
    """Before, within and behind its head; its bytes are free again."""
    room = room()
    for sent in (b"", b"GET", b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\nab"):
        _, client = room.connect()
        client.sendall(sent)
        client.close()
        room.pump()
    assert (len(room.intake), len(room.closed), room.budget.in_flight) == (0, 3, 0)


def test_a_body_without_room_is_handed_over_unread(room):
    """From its head alone, before a byte of it is read, to be refused; the connection serves no other request."""
    room = room(total=1000, per_client=600)
    for peer, size in (("1.1.1.1", 500), ("1.1.1.1", 500), ("2.2.2.2", 250), ("3.3.3.3", 250), ("3.3.3.3", 100)):
        _, client = room.connect(peer)
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        room.pump()
    refused = room.whole
    assert [conn.peer for conn in refused] == ["1.1.1.1", "3.3.3.3"]  # over its own share; more than it leaves free
    assert all(conn.sock.body_refused and not conn.sock.request_whole for conn in refused)
    assert read(refused[0]) == b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n"
    assert (room.budget.in_flight, room.budget.refusals) == (850, 2)


def test_a_body_of_unknown_length_is_admitted_as_it_comes(room):
    """Each chunk takes its room; the one that finds none ends it."""
    room = room(total=1000, per_client=600)
    conn, client = room.connect()
    client.sendall(CHUNKED + b"100\r\n" + b"x" * 256 + b"\r\n")
    room.pump()
    assert 256 < room.budget.in_flight < 300
    client.sendall(b"200\r\n" + b"x" * 512 + b"\r\n")
    room.pump()
    assert room.whole == [conn]
    assert conn.sock.body_refused
    conn.sock.end_request()
    assert room.budget.in_flight == 0


def test_a_body_that_no_route_reads_is_not_read(room):
    """It is handed over from its head, and takes no room: whoever serves it refuses its length."""
    room = room(max_body_bytes=300)
    conn, client = room.connect()
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 301\r\n\r\n")
    room.pump()
    assert room.whole == [conn]
    assert (conn.sock.body_refused, conn.sock.request_whole, room.budget.in_flight) == (False, False, 0)


def test_the_bytes_of_a_body_are_held_until_they_are_released(room):
    """By whoever has read them, or at the end of the request; once."""
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    assert room.budget.in_flight == 5
    conn.sock.release_body()
    assert room.budget.in_flight == 0
    conn.sock.end_request()
    assert room.budget.in_flight == 0


def test_a_body_that_grows_while_it_is_read_takes_more_of_the_budget(room):
    """As far as its client has room, and all of it is released together."""
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    assert conn.sock.grow_body(100)
    assert room.budget.in_flight == 105
    assert not conn.sock.grow_body(10**9)
    assert room.budget.in_flight == 105
    conn.sock.release_body()
    assert room.budget.in_flight == 0


def test_what_is_read_for_a_request_without_a_body_counts_as_one(room):
    """A stored conversation, for instance; it is released at the end of the request."""
    room = room()
    conn, client = room.connect()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    room.pump()
    assert room.budget.in_flight == 0
    assert conn.sock.grow_body(100)
    assert room.budget.in_flight == 100
    assert not conn.sock.grow_body(10**9)
    conn.sock.end_request()
    assert room.budget.in_flight == 0


def test_a_client_that_asks_first_is_told_to_go_on(room):
    """Only once its body has been admitted."""
    room = room()
    ask = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    _, admitted = room.connect()
    _, refused = room.connect()
    admitted.sendall(ask % 500)
    refused.sendall(ask % 601)
    room.pump()
    assert admitted.recv(100) == CONTINUE
    refused.setblocking(False)
    with pytest.raises(BlockingIOError):
        refused.recv(100)


def test_an_older_client_that_asks_first_is_told_nothing(room):
    """Its body is read without a word, and its request is served."""
    room = room()
    conn, client = room.connect()
    client.sendall(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    room.pump()
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(100)
    client.sendall(b"hello")
    room.pump()
    assert room.whole == [conn]


def test_the_gate_refuses_from_the_head(room):
    """The response is sent before the body is read; what still arrives of it is discarded, then the connection ends."""
    room = room()
    room.gate.refusal = b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    _, client = room.connect()
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n" + b"x" * 100)
    room.pump()
    assert room.gate.heads == [b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n"]
    assert client.recv(1000) == room.gate.refusal
    assert room.intake.refused == 1
    client.sendall(b"x" * 400)  # no reset
    room.pump()
    assert (room.whole, room.closed, room.budget.in_flight) == ([], [], 0)
    client.close()
    room.pump()
    assert len(room.closed) == 1


def test_what_is_discarded_is_bounded(room):
    """A client that goes on sending, or that never closes its end, is left after a while."""
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    room.intake.linger(conn)
    client.sendall(b"more")
    room.pump()
    room.intake.sweep()
    assert len(room.intake) == 1
    room.clock.advance(LINGER_SECONDS)
    room.intake.sweep()
    assert (len(room.intake), len(room.closed)) == (0, 1)


def test_the_bytes_that_are_discarded_are_bounded(room, monkeypatch):
    """A client that sends without end is left before its time is over."""
    monkeypatch.setattr(lingering, "LINGER_BYTES", 1000)
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    room.intake.linger(conn)
    for size, waiting in ((999, 1), (1, 0)):
        client.sendall(bytes(size))
        room.pump()
        assert (len(room.intake), len(room.closed)) == (waiting, 1 - waiting)


def test_room_is_made_among_the_connections_of_one_address(room):
    """The one that has waited longest is closed, of the same /64 of IPv6 as well; others' connections stay."""
    room = room()
    (first, client), *_ = (room.connect(peer) for peer in ("2001:db8::1", "2001:db8:0:1::1", "2001:db8::3"))
    assert room.intake.close_longest_waiting(budget_key_of(("2001:db8::2", 1)))
    assert room.closed == [first]
    assert client.recv(10) == b""
    assert not room.intake.close_longest_waiting(budget_key_of(("1.1.1.1", 1)))
    assert len(room.intake) == 2


def test_what_cannot_be_framed_is_handed_over(room):
    """The parser refuses it; nothing waits for more of it."""
    room = room()
    conn, client = room.connect()
    client.sendall(CHUNKED + b"nonsense\r\n")
    room.pump()
    assert room.whole == [conn]
    assert not conn.sock.request_whole
    assert read(conn).endswith(b"nonsense\r\n")


def test_a_stopping_worker_waits_for_no_silent_connection(room):
    """A request that has begun keeps its time."""
    room = room()
    room.connect(seconds=75.0)
    _, client = room.connect()
    client.sendall(b"GET")
    room.pump()
    room.intake.cap(room.clock() + 1)
    room.clock.advance(1)
    room.intake.sweep()
    assert len(room.intake) == 1


def test_a_descriptor_can_be_had_from_whoever_waited_longest(room):
    """For the next connection; without anybody who waits, there is none to be had."""
    room = room()
    first, _ = room.connect()
    room.connect()
    assert room.intake.close_longest_waiting()
    assert room.closed == [first]
    assert room.intake.close_longest_waiting()
    assert not room.intake.close_longest_waiting()


def test_a_refused_connection_goes_on_where_its_request_was_whole(room):
    """The client sends its next request on it; silent, it is given up after the keep-alive's time."""
    room = room()
    room.gate.refusal, room.gate.keeps_alive = REFUSAL, True
    conn, client = room.connect()
    for _ in range(3):
        client.sendall(SMALL)
        room.pump()
        assert client.recv(1000) == REFUSAL
    room.gate.refusal = None
    client.sendall(SMALL)
    room.pump()
    assert (room.whole, room.closed, room.budget.in_flight) == ([conn], [], 5)
    assert read(conn) == SMALL


def test_a_refused_connection_that_is_silent_ends(room):
    """After the keep-alive's time, like any other."""
    room = room()
    room.gate.refusal, room.gate.keeps_alive = REFUSAL, True
    _, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    room.clock.advance(KEEPALIVE)
    room.intake.sweep()
    assert (len(room.intake), len(room.closed)) == (0, 1)
    assert client.recv(1000) == REFUSAL


def test_a_refused_client_that_closes_costs_no_wait(room):
    """Nothing is left unread, so the connection is closed at once, and its answer arrives."""
    room = room()
    room.gate.refusal = REFUSAL
    _, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    assert (len(room.intake), len(room.closed)) == (0, 1)
    assert client.recv(1000) == REFUSAL
    assert client.recv(1000) == b""


def test_requests_sent_ahead_of_a_refusal_are_discarded(room):
    """However many, the first alone is answered, and the connection ends."""
    room = room()
    room.gate.refusal, room.gate.keeps_alive = REFUSAL, True
    _, client = room.connect()
    client.sendall(SMALL * 2000)
    room.pump()
    assert len(room.gate.heads) == 1
    assert client.recv(10_000) == REFUSAL
    client.close()
    room.pump()
    assert len(room.closed) == 1


def test_a_request_is_judged_again_once_it_is_whole(room):
    """By the model that its body names; what it had reserved is free behind a refusal."""
    room, names = room(), []
    room.gate.again = lambda asked: names.append(asked) or (REFUSAL if asked == "avision" else None)
    naming = SMALL.replace(b"hello", NAMING).replace(b" 5", b" %d" % len(NAMING))
    _, client = room.connect()
    client.sendall(naming[:-2])
    room.pump()
    assert (names, room.budget.in_flight) == ([], len(NAMING))
    client.sendall(naming[-2:])
    room.pump()
    assert (names, room.whole, room.budget.in_flight) == (["avision"], [], 0)
    assert client.recv(1000) == REFUSAL
    passed, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    assert (names, room.whole) == (["avision", ""], [passed])
    assert read(passed) == SMALL


CLIENT_TEXT = "what a client sent"


class Bug(Exception):
    """What nobody expects."""


def fail(*arguments, **named):
    raise Bug(CLIENT_TEXT)


def no_memory(*arguments, **named):
    raise MemoryError


def no_space(*arguments, **named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


PLACES = {
    "the judge": lambda room: setattr(room.gate, "judge", fail),
    "the judge of the whole": lambda room: setattr(room.gate, "again", fail),
    "the budget": lambda room: setattr(room.budget, "reserve", fail),
    "the dispatch": lambda room: setattr(room.intake, "_dispatch", fail),
    "the clock": lambda room: setattr(room.intake, "_clock", fail),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_in_one_connection_ends_that_one_alone(room, place):
    """Its request is answered, wherever the error comes from; all that it held is released, and others go on."""
    room = room()
    _, other = room.connect("5.6.7.8")
    conn, client = room.connect()
    PLACES[place](room)
    client.sendall(SMALL)
    room.pump()
    assert client.recv(1000) == FAILURE
    assert client.recv(1) == b""
    client.close()
    room.pump()
    assert room.closed == [conn]
    read = b"" if place == "the clock" else SMALL.removesuffix(b"hello")
    assert room.failures == [(read, "1.2.3.4", Bug)]
    assert (room.budget.in_flight, len(room.intake)) == (0, 1)
    room.intake._clock, room.gate.judge, room.intake._dispatch = room.clock, Gate().judge, room.whole.append
    room.budget.reserve = BodyBudget(1000, 600).reserve
    other.sendall(SMALL)
    room.pump()
    assert len(room.whole) == 1


def test_a_request_is_answered_once(room, caplog):
    """An error behind its refusal ends the connection; the log has no word of a client's."""
    room = room()
    room.gate.refusal, room.gate.keeps_alive = REFUSAL, True
    conn, client = room.connect()
    room.intake._expect_again = fail
    client.sendall(SMALL)
    room.pump()
    assert client.recv(1000) == REFUSAL
    assert client.recv(1) == b""
    assert (room.closed, room.failures) == ([conn], [])
    assert "Bug" in caplog.text
    assert CLIENT_TEXT not in caplog.text


def test_a_failure_that_cannot_be_told_ends_its_connection_alone(room, caplog):
    """As where no memory is left for the answer either."""
    room = room()
    room.connect("5.6.7.8")
    conn, client = room.connect()
    room.gate.judge = room.intake._failure = fail
    client.sendall(SMALL)
    room.pump()
    assert client.recv(1) == b""
    assert (room.closed, room.budget.in_flight, len(room.intake)) == ([conn], 0, 1)
    assert "Bug" in caplog.text
    assert CLIENT_TEXT not in caplog.text


def test_an_error_while_bytes_are_read_is_told(room):
    """Before any of the head is known, and within what a client has sent ahead."""
    room = room()
    conn, client = room.connect()
    conn.sock.receive_now = no_memory
    client.sendall(SMALL)
    room.pump()
    assert client.recv(1000) == FAILURE
    ahead, client = room.connect()
    client.sendall(SMALL + SMALL)
    room.pump()
    ahead.sock.end_request()
    room.gate.judge = fail
    room.intake.expect(ahead, PATIENCE)
    assert client.recv(1000) == FAILURE
    assert [(head, kind) for head, _, kind in room.failures] == [(b"", MemoryError), (SMALL[:-5], Bug)]


@pytest.mark.parametrize("broken", [fail, no_space])
def test_a_connection_that_cannot_be_watched_is_closed(room, broken):
    """As where the kernel has no room for another watch: before its request, and behind its answer."""
    room = room()
    kept, kept_client = room.connect()
    kept_client.sendall(SMALL)
    room.pump()
    room.intake._poller = SimpleNamespace(register=broken, unregister=room.selector.unregister)
    conn, client = room.connect()
    kept.sock.end_request()
    room.intake.expect(kept, PATIENCE)
    assert room.closed == [conn, kept]
    assert client.recv(1) == kept_client.recv(1) == b""
    assert len(room.intake) == 0


def test_a_connection_that_cannot_be_closed_well_keeps_no_other(room):
    """The sweep and the end go on to the next one."""
    room = room()
    for number in range(3):
        conn, _ = room.connect(f"1.2.3.{number}")
        closes_badly(room.intake._arriving[conn].framing)
    room.clock.advance(PATIENCE + 1)
    room.intake.sweep()
    assert len(room.intake) == 0


def test_a_connection_that_cannot_be_closed_well_makes_room_all_the_same(room):
    """For the next one, from the same address or any."""
    room = room()
    for _ in range(2):
        conn, _ = room.connect()
        closes_badly(room.intake._arriving[conn].framing)
    assert room.intake.close_longest_waiting(conn.budget_key)
    assert room.intake.close_longest_waiting()
    assert (len(room.intake), len(room.closed)) == (0, 2)


def closes_badly(framing):
    close = framing.close
    framing.close = lambda: (close(), fail())


def test_a_body_that_cannot_be_kept_is_refused(room, monkeypatch):
    """It is handed over with its head alone, as one that found no room; its bytes are given back."""
    monkeypatch.setattr("serving.framing.Framing._kept", unstored)
    room = room()
    conn, client = room.connect()
    client.sendall(SMALL)
    room.pump()
    assert room.whole == [conn]
    assert conn.sock.body_refused
    assert not conn.sock.request_whole
    conn.close()
    assert room.budget.in_flight == 0


def unstored(framing, data):
    framing.stage = Stage.UNSTORED
    return False


def test_a_stopping_worker_keeps_no_refused_connection(room):
    """A client that goes on asking does not hold up the stop."""
    room = room()
    room.gate.refusal, room.gate.keeps_alive = REFUSAL, True
    _, client = room.connect()
    room.intake.cap(room.clock() + 1.0)
    client.sendall(SMALL)
    room.pump()
    assert (len(room.intake), len(room.closed)) == (0, 1)
    assert client.recv(1000) == REFUSAL
    assert client.recv(1000) == b""


class Counted:
    """A poller that notes what is registered with it, and what is taken out."""

    def __init__(self, poller):
        self._poller, self.calls = poller, []

    def register(self, fileobj, events, data=None):
        self.calls.append("register")
        return self._poller.register(fileobj, events, data)

    def unregister(self, fileobj):
        self.calls.append("unregister")
        return self._poller.unregister(fileobj)


def fresh(room, sent):
    """A connection whose client has sent something before it is accepted."""
    ours, client = socket.socketpair()
    client.settimeout(PATIENCE)
    client.sendall(sent)
    conn = Connection(None, ClientSocket(ours, PATIENCE), ("1.2.3.4", 1), None)
    room.clients.append(client)
    room.intake.expect(conn, PATIENCE, fresh=True)
    room.pump()
    return conn, client


def test_what_is_refused_on_arrival_never_reaches_the_poller(room):
    """A flood of connections costs the poller nothing; what is not whole yet waits in it."""
    room = room()
    room.intake._poller = poller = Counted(room.selector)
    room.gate.refusal = REFUSAL
    conn, client = fresh(room, SMALL)
    assert client.recv(1000) == REFUSAL
    assert client.recv(1) == b""
    assert (room.closed, poller.calls) == ([conn], [])
    room.gate.refusal = None
    conn, client = fresh(room, SMALL[:-1])
    assert (room.whole, poller.calls) == ([], ["register"])
    client.sendall(SMALL[-1:])
    room.pump()
    assert (room.whole, poller.calls) == ([conn], ["register", "unregister"])


def test_a_fresh_connection_that_was_left_or_is_silent(room):
    """One that its client has left is closed at once; a silent one waits."""
    room = room()
    ours, client = socket.socketpair()
    client.close()
    room.intake.expect(Connection(None, ClientSocket(ours, PATIENCE), ("1.2.3.4", 1), None), PATIENCE, fresh=True)
    room.pump()
    assert (len(room.closed), len(room.intake)) == (1, 0)
    conn, client = fresh(room, b"\r\n")
    assert len(room.intake) == 1
    client.sendall(SMALL)
    room.pump()
    assert room.whole == [conn]


@pytest.mark.parametrize("begin", [fresh, lambda room, sent: room.connect()])
def test_a_refused_connection_stays_in_the_poller(room, begin):
    """It is registered once, however many of its requests are refused; each waits anew, behind the others."""
    room = room()
    room.intake._poller = poller = Counted(room.selector)
    room.gate.refusal, room.gate.keeps_alive = REFUSAL, True
    conn, client = begin(room, SMALL)
    room.connect("5.6.7.8")
    for _ in range(2):
        client.sendall(SMALL)
        room.pump()
        assert client.recv(10_000).startswith(REFUSAL)
        room.clock.advance(KEEPALIVE - 1)
        room.intake.sweep()
    assert poller.calls.count("register") == 2
    assert next(iter(room.intake._arriving)) is not conn
    room.clock.advance(KEEPALIVE)
    room.intake.sweep()
    assert room.closed[-1] is conn


@pytest.mark.parametrize("chunked", [True, False])
def test_what_is_looked_at_byte_by_byte_is_read_in_small_parts(room, monkeypatch, chunked):
    """Heads and chunks: others have their turn between them. Of a plain body more is read at once."""
    sizes, feed = [], Framing.feed
    monkeypatch.setattr(Framing, "feed", lambda self, data: (sizes.append(len(data)), feed(self, data))[1])
    body, room = b"x" * 100_000, room(total=10**6, per_client=10**6)
    fields, sent = (
        (b"Transfer-Encoding: chunked", b"186A0\r\n" + body + b"\r\n0\r\n\r\n")
        if chunked
        else (b"Content-Length: 100000", body)
    )
    head = b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n"
    conn, client = room.connect()
    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    client.sendall(head + sent)
    room.pump()
    assert read(conn).endswith(sent)
    assert sum(sizes) == len(head + sent)
    assert max(sizes[:1] if not chunked else sizes) <= LOOKED_AT_BYTES
    assert chunked or max(sizes) > LOOKED_AT_BYTES


LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("sent", [LAST, LAST.replace(b"Connection: close\r\n", b"")])
@pytest.mark.parametrize("more", [b"", b"\r\n"])
def test_a_connection_is_closed_at_once_behind_its_last_answer(room, sent, more):
    """Where nothing more can come, as the client has said. Else the kernel would reset what it has not read yet."""
    room = room()
    conn, client = room.connect()
    client.sendall(sent)
    room.pump()
    was_last = conn.sock.is_last_request
    assert was_last is (sent == LAST)
    conn.sock.end_request()
    conn.sock.send_now(b"answer")
    client.sendall(more)
    room.intake.close_behind(conn, was_last)
    assert (room.closed, len(room.intake)) == (([conn], 0) if was_last and not more else ([], 1))
    assert client.recv(100) + client.recv(100) == b"answer"
    client.close()
    room.pump()
    assert (room.closed, len(room.intake)) == ([conn], 0)


@pytest.mark.parametrize("request_", [None, SMALL[:-1], SMALL])
def test_not_every_request_is_the_last_one(room, request_):
    """None, one that is not whole, and one whose client keeps its connection."""
    room = room()
    conn, client = room.connect()
    if request_:
        client.sendall(request_)
        room.pump()
    assert not conn.sock.is_last_request


CROWD, OTHER = "1.1.1.1", "2.2.2.2"


def accepted(room, peer, sent=SMALL):
    """A connection that has been accepted and not been read, and the client's end of it."""
    ours, client = socket.socketpair()
    client.settimeout(PATIENCE)
    client.sendall(sent)
    room.clients.append(client)
    conn = Connection(None, ClientSocket(ours, PATIENCE), (peer, 1), None)
    room.intake.expect(conn, PATIENCE, fresh=True)
    return conn, client


def waits_in_poller(room, peer):
    """A connection whose request comes after it was polled."""
    conn, client = room.connect(peer)
    client.sendall(SMALL)
    return conn, client


def answered(room, peer):
    """A connection that is discarded behind its answer, on which something has come since."""
    conn, client = accepted(room, peer)
    room.intake.read_all()
    room.whole.remove(conn)
    room.intake.linger(conn)
    client.sendall(SMALL)
    return conn, client


@pytest.mark.parametrize("crowd", [accepted, waits_in_poller, answered])
@pytest.mark.parametrize("other", [accepted, waits_in_poller])
def test_a_crowd_of_one_address_is_read_in_turn_with_others(room, crowd, other):
    """Whatever state its connections are in; all of them are read in the end, each once."""
    room = room(total=10**6, per_client=10**6)
    many = [crowd(room, CROWD)[0] for _ in range(3 * READ_AT_ONCE)]
    few = [other(room, OTHER)[0] for _ in range(3)]
    room.look()
    assert room.intake.unread_addresses == 2
    room.intake.read_some()
    assert set(few) <= set(room.whole)
    assert room.intake.unread == len(many) + len(few) - READ_AT_ONCE
    for _ in range(2):
        room.look()  # what was not read is reported again, and keeps its place
        room.intake.read_some()
    assert room.intake.unread <= 3
    room.pump()
    assert sorted(map(id, room.whole)) == sorted(map(id, few if crowd is answered else many + few))


def test_a_round_of_reading_is_short(room, monkeypatch):
    """Where each takes long there are fewer in it, down to one."""
    room = room()
    monkeypatch.setattr(intake, "READ_SECONDS", READ_SECONDS)
    monkeypatch.setattr("serving.intake.time.monotonic", room.clock)
    monkeypatch.setattr(room.gate, "judge", lambda *_: (room.clock.advance(READ_SECONDS / 2), Decision("a"))[1])
    for number in range(5):
        accepted(room, f"1.2.3.{number}")
    for expected in (2, 4, 5):
        room.intake.read_some()
        assert len(room.whole) == expected
    monkeypatch.setattr(room.gate, "judge", lambda *_: (room.clock.advance(1.0), Decision("a"))[1])
    for number in range(2):
        accepted(room, f"1.2.3.{number}")
    room.intake.read_some()
    assert len(room.whole) == 6


def test_of_a_crowd_each_is_read_before_any_is_read_again(room):
    """Those that send byte by byte do not keep the others of their address from being read."""
    room = room()
    clients = [accepted(room, CROWD, b"G")[1] for _ in range(2 * READ_AT_ONCE)]
    last, _ = accepted(room, CROWD)
    for _ in range(3):
        room.intake.read_some()
        for client in clients:
            client.sendall(b"E")
        room.look()
    assert room.whole == [last]


@pytest.mark.parametrize("peer", [None, CROWD])
def test_who_has_only_begun_to_wait_is_not_closed_for_another(room, peer):
    """A request may follow its connection a moment later, and the next one the one before."""
    room = room()
    kept, client = room.connect(CROWD)
    client.sendall(SMALL)
    room.pump()
    room.clock.advance(5.0)
    kept.sock.end_request()
    room.intake.expect(kept, KEEPALIVE)
    room.clock.advance(0.9)
    assert not room.intake.close_longest_waiting(peer, 1.0)
    room.clock.advance(0.2)
    assert room.intake.close_longest_waiting(peer, 1.0)
    assert room.closed == [kept]


def test_those_that_have_just_come_are_not_searched_for_one_that_has_long_waited(room, monkeypatch):
    """However many they are: a flood has this asked for in each round."""
    room = room()
    for _ in range(50):
        accepted(room, CROWD)
    looked_at = []
    with monkeypatch.context() as patch:
        patch.setattr(type(room.intake._unread), "__contains__", lambda _, conn: looked_at.append(conn) or True)
        assert not room.intake.close_longest_waiting(None, 1.0)
        assert not looked_at
        room.clock.advance(1.0)
        assert not room.intake.close_longest_waiting(None, 1.0)
        assert len(looked_at) == 50


def test_what_is_not_read_yet_is_not_closed_as_if_it_were_silent(room):
    """It may hold a request; an address whose connections are all unread has none that waits silently."""
    room = room()
    unread, _ = accepted(room, CROWD)
    assert not room.intake.close_longest_waiting(CROWD)
    assert not room.intake.close_longest_waiting()
    silent, _ = room.connect(CROWD)
    for _ in range(3):
        answered(room, CROWD)
    room.look()
    assert not room.intake.close_longest_waiting(OTHER)
    assert room.intake.close_longest_waiting(CROWD)
    assert room.closed == [silent]
    began, client = accepted(room, CROWD, SMALL[:-1])
    room.pump()
    assert room.whole == [unread]
    client.sendall(SMALL[-1:])
    room.look()
    assert not room.intake.close_longest_waiting(CROWD)
    room.intake.read_all()
    assert room.whole == [unread, began]


@pytest.mark.parametrize("state", [accepted, waits_in_poller, answered])
@pytest.mark.parametrize("end", ["close", "drop"])
def test_what_ends_is_not_read(room, state, end):
    """Nothing of it stays in the turns."""
    room = room()
    conn, _ = state(room, CROWD)
    room.look()
    assert room.intake.unread == 1
    room.closed.clear()
    room.intake.drop(conn) if end == "drop" else room.intake.close()
    assert (room.intake.unread, room.closed, len(room.intake)) == (0, [conn], 0)
    room.intake.read_some()
    assert room.closed == [conn]


def has_begun(room, peer):
    """A connection of whose request all but the end was read."""
    conn, client = accepted(room, peer, SMALL[:-1])
    room.pump()
    client.sendall(SMALL[-1:])
    return conn, client


@pytest.mark.parametrize("state", [accepted, waits_in_poller, has_begun])
def test_what_has_come_in_time_is_read_after_it(room, state):
    """A request that waits for its turn behind a crowd is not given up; a connection that says nothing is."""
    room = room()
    conn, _ = state(room, CROWD)
    left, _ = accepted(room, CROWD, b"")
    room.look()
    room.clock.advance(PATIENCE + 1)
    room.intake.sweep()
    room.intake.read_all()
    assert (room.whole, room.failures) == ([conn], [])
    room.intake.sweep()
    assert room.closed == [left]
