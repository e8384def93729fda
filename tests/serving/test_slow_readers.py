"""Threads that wait for clients that do not read are shared out between addresses."""

import contextlib
import socket
import threading

import pytest

from serving import slow_readers
from serving.connection import ClientSocket, budget_key_of
from serving.slow_readers import SlowReaders, TooManySlowReaders

LONG = b"x" * 10_000_000
PATIENCE = 30.0  # seconds; a wait ends by what the test does, long before


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(slow_readers, "PATIENCE", 0.0)


class Waits:
    """Waits of several addresses, and the names of those that were cut."""

    def __init__(self, most, stack):
        self.slow, self.cut, self._stack = SlowReaders(most), [], stack

    def begin(self, client, name):
        """Begin a wait; return what ends it."""
        return self._stack.enter_context(self.slow.waiting(client, lambda: self.cut.append(name)))


@pytest.fixture
def waits():
    """Return waits of at most so many threads."""
    with contextlib.ExitStack() as stack:
        yield lambda most: Waits(most, stack)


def test_who_has_most_gives_way(waits):
    """The longest wait first, as long as that address then has as many as the one that comes."""
    waits = waits(4)
    for name in ("a1", "b1", "a2", "a3"):
        waits.begin(name[0], name)
    waits.begin("c", "c1")
    waits.begin("d", "d1")
    assert waits.cut == ["a1", "a2"]
    assert len(waits.slow) == 4
    with pytest.raises(TooManySlowReaders):
        waits.begin("e", "e1")
    assert waits.cut == ["a1", "a2"]


def test_nobody_gains_by_one_more_of_their_own(waits):
    """Neither who has most already, nor who would only change places with another."""
    waits = waits(3)
    for name in ("a1", "a2", "b1"):
        waits.begin(name[0], name)
    for client in ("a", "b"):
        with pytest.raises(TooManySlowReaders):
            waits.begin(client, "more")
    assert waits.cut == []


def test_a_wait_that_ends_leaves_its_thread_to_the_next(waits):
    """Also one that was cut, whose thread had been taken already."""
    slow = waits(2).slow
    with slow.waiting("a", lambda: None), slow.waiting("a", lambda: None):
        with slow.waiting("b", lambda: None):
            assert len(slow) == 2
        assert len(slow) == 1
    assert len(slow) == 0


def test_a_client_that_does_not_read_is_disconnected_for_another_address():
    """The write of the one that has most fails; the other's response arrives whole."""
    waiting, ended = SlowReaders(2), threading.Semaphore(0)
    errors = []

    def send(server):
        try:
            server.sendall(LONG)
        except OSError as error:
            errors.append(type(error))
        ended.release()

    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        clients = [stack.enter_context(client) for _, client in pairs]
        keys = ["1.1.1.1", "1.1.1.1", "2.2.2.2"]
        servers = [
            stack.enter_context(ClientSocket(ours, PATIENCE, waiting, key))
            for (ours, _), key in zip(pairs, keys, strict=True)
        ]
        for server in servers:
            server.setblocking(True)
        threads = [threading.Thread(target=send, args=(server,)) for server in servers]
        for number, thread in enumerate(threads[:2], start=1):
            thread.start()
            while len(waiting) < number:  # until it waits
                pass
        threads[2].start()
        ended.acquire()  # of the first
        assert len(errors) == 1
        assert issubclass(errors[0], OSError)
        left = len(LONG)
        while left:
            left -= len(clients[2].recv(left))
        clients[1].close()
        for thread in threads:
            thread.join()
    assert len(errors) == 2  # the last of them is that of the client that has left
    assert len(waiting) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_a_client_of_ipv6_is_its_whole_network(one, other, same):
    """Else it could have as many addresses as it likes."""
    assert (budget_key_of((one, 1, 0, 0)) == budget_key_of((other, 2, 0, 0))) is same


def test_a_socket_without_an_address_has_a_key():
    """That of a Unix socket is a text."""
    assert budget_key_of("") == "unknown"
