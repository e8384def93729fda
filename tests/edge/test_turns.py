"""How many requests are worked on at once."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context

import pytest

from edge import turns
from edge.turns import Turns
from tests.fakes import PATIENCE


class Request:
    """A request in a thread of its own, which holds its turn until it is told to go on."""

    def __init__(self, pool, among, step=lambda: None):
        self.begun, self.go_on, self.waits = threading.Event(), threading.Event(), threading.Event()
        self._among, self._step = among, step
        self.done = pool.submit(Context().run, self._serve)

    def _serve(self):
        with self._among.serving():
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
            self._step()
            self.waits.set()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as threads:
        yield threads


def ended(*requests):
    for request in requests:
        request.go_on.set()
        request.done.result(PATIENCE)


def test_only_so_many_requests_have_a_turn(pool):
    """The next one has its own once another has ended."""
    among = Turns(2, PATIENCE)
    first, second = Request(pool, among), Request(pool, among)
    assert first.begun.wait(PATIENCE)
    assert second.begun.wait(PATIENCE)
    third = Request(pool, among)
    assert not third.begun.is_set()
    ended(first)
    assert third.begun.wait(PATIENCE)
    ended(second, third)


def test_a_request_that_waits_leaves_its_turn_to_others(pool):
    """And takes it again, as often as it likes."""
    among, waits, woken = Turns(1, PATIENCE), threading.Event(), threading.Event()

    def wait():
        turns.leave()
        turns.leave()
        waits.set()
        assert woken.wait(PATIENCE)
        turns.take()
        turns.take()

    first = Request(pool, among, wait)
    first.go_on.set()
    assert waits.wait(PATIENCE)
    second = Request(pool, among)
    assert second.begun.wait(PATIENCE)
    woken.set()
    assert not first.waits.is_set()
    ended(second, first)
    third = Request(pool, among)
    assert third.begun.wait(PATIENCE)
    ended(third)


def test_an_error_ends_the_turn(pool):
    """So that the next request has it."""
    among = Turns(1, PATIENCE)
    with pytest.raises(ZeroDivisionError), among.serving():
        raise ZeroDivisionError
    request = Request(pool, among)
    assert request.begun.wait(PATIENCE)
    ended(request)


def test_who_has_waited_goes_on_beside_the_turns_a_few_at_once(pool):
    """One without a turn at a time; the next one takes its place once it has ended."""
    among = Turns(1, patience=0.0, late=1, longest=PATIENCE)
    first, second = Request(pool, among), Request(pool, among)
    assert first.begun.wait(PATIENCE)
    assert second.begun.wait(PATIENCE)
    third = Request(pool, among)
    assert not third.begun.is_set()
    ended(second)
    assert third.begun.wait(PATIENCE)
    ended(first, third)


def test_nobody_waits_for_ever(pool):
    """Where neither comes, the request goes on all the same, and gives back none."""
    among = Turns(1, patience=0.0, late=1, longest=0.0)
    requests = [Request(pool, among) for _ in range(3)]
    assert all(request.begun.wait(PATIENCE) for request in requests)
    ended(*requests)
    held = [Request(pool, among) for _ in range(2)]
    ended(*held)
    for free, _ in among._lines:
        assert free.acquire(blocking=False)
        assert not free.acquire(blocking=False)


def test_outside_of_a_request_there_are_no_turns():
    """Whatever is called there, by the shared writer of streams or a test, waits for nothing."""
    turns.take()
    turns.leave()
