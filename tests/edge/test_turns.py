"""How many requests are worked on at once."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from functools import partial

import pytest

from edge import turns
from edge.in_service import BETWEEN, COURTESY, LATELY, MANY, OFTEN, PATIENT, TIMES
from edge.turns import Turn, Turns
from tests.fakes import PATIENCE


class Request:
    """A request in a thread of its own, which holds its turn until it is told to go on."""

    def __init__(self, pool, among, step=lambda: None, client="a", light=False):
        self.begun, self.go_on, self.waits = threading.Event(), threading.Event(), threading.Event()
        self._among, self._step = among, step
        self.done = Future()
        go = partial(pool.submit, Context().run, self._serve)
        among.begin(client, lambda turn: go(turn).add_done_callback(self._end), light)

    def _end(self, done):
        if error := done.exception():
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    def _serve(self, turn):
        with self._among.serving(turn):
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
            self._step()
            self.waits.set()


def begun(among, client, light=False):
    """Return the turn of a request for which there is one."""
    started = []
    among.begin(client, started.append, light)
    (turn,) = started
    return turn


@pytest.fixture
def pool():
    with ThreadPoolExecutor(32) as threads:
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


def test_many_clients_with_a_request_each_are_not_all_looked_at(monkeypatch):
    """The longest waiting one has the fewest that there can be."""
    among, started, looked = Turns(1, PATIENCE), [], []
    first = begun(among, "first")
    for number in range(100):
        among.begin(str(number), started.append)
    number_of = among._service.number
    monkeypatch.setattr(among._service, "number", lambda client: looked.append(client) or number_of(client))
    first.leave()
    assert [turn.client for turn in started] == looked == ["0"]


def test_a_turn_that_nobody_waits_for_is_told_as_free():
    """Once those who wait have had theirs, and where it was lent, once it is back; not the turns beside them."""
    told = []
    among = Turns(1, PATIENCE, late=1, on_free=lambda: told.append(among.free))
    assert among.free
    first = begun(among, "a")
    assert not among.free
    started = []
    among.begin("b", started.append)
    first.leave()
    assert (told, among.free) == ([], False)
    started[0].leave()
    assert (told, among.free) == ([True], True)
    beside = Turn(among._lines[1:], "c")
    beside.take()
    beside.leave()
    assert told == [True]


def test_an_error_ends_the_turn(pool):
    """So that the next request has it."""
    among = Turns(1, PATIENCE)
    with pytest.raises(ZeroDivisionError), among.serving(begun(among, "a")):
        raise ZeroDivisionError
    request = Request(pool, among)
    assert request.begun.wait(PATIENCE)
    ended(request)


def test_who_has_waited_goes_on_beside_the_turns_a_few_at_once(pool):
    """One without a turn at a time; the next one takes its place once it has ended."""
    among = Turns(1, patience=0.0, late=1, longest=PATIENCE)
    first, second = Request(pool, among), Request(pool, among)
    assert first.begun.wait(PATIENCE)
    assert not second.begun.is_set()
    among.hasten()
    assert second.begun.wait(PATIENCE)
    third = Request(pool, among)
    among.hasten()
    assert not third.begun.is_set()
    ended(second)
    assert third.begun.wait(PATIENCE)
    ended(first, third)


def test_no_thread_waits_for_ever(pool):
    """Where neither comes, it goes on all the same, and gives back none."""
    among = Turns(1, patience=0.0, late=1, longest=0.0)
    held = [Request(pool, among) for _ in range(2)]
    among.hasten()
    assert all(request.begun.wait(PATIENCE) for request in held)
    third = begun(Turns(1, PATIENCE), "c")
    third._lines = among._lines
    third.leave()
    third.take()
    assert third._held is None
    ended(*held)
    assert [line.free for line in among._lines] == [1, 1]


def test_what_has_no_thread_is_given_up_instead_of_begun_without_a_turn():
    """However many wait: they are worked on a few at once, and are counted no longer once they are given up."""
    now, started, given_up = [0.0], [], []
    among = Turns(1, patience=0.5, late=1, longest=5.0, clock=lambda: now[0], begin_within=10.0)
    for number in range(20):
        among.begin("a", started.append, True, lambda number=number: given_up.append(number))
    for now[0], begun_now, gone in ((0.4, 1, 0), (0.6, 2, 0), (9.9, 2, 0), (10.2, 2, 18)):
        among.hasten()
        assert (len(started), len(given_up)) == (begun_now, gone)
    assert given_up == [*range(2, 20)]
    assert (among.number("a", light=True), among.number("a", light=False)) == (2, 0)
    started[0].leave()
    assert among._lines[0].free == 1


def test_a_turn_that_is_free_is_lent_to_those_who_have_waited():
    """They wait in the second line alone by then; it goes back to the first one once nobody waits in that one."""
    now, started = [0.0], []
    among = Turns(1, patience=0.5, late=1, longest=5.0, clock=lambda: now[0])
    for client in "abcd":
        among.begin(client, started.append)
    now[0] = 0.6
    among.hasten()
    assert [turn.client for turn in started] == ["a", "b"]
    started[0].leave()
    assert [line.free for line in among._lines] == [1, 0]
    among.hasten()
    assert [turn.client for turn in started] == ["a", "b", "c"]
    for turn in started:
        turn.leave()
    assert [turn.client for turn in started] == ["a", "b", "c", "d"]
    started[3].leave()
    assert [line.free for line in among._lines] == [1, 1]
    assert among._lines[1].borrowed == []


def test_not_all_who_have_waited_too_long_are_given_up_at_once(monkeypatch):
    """The polling thread has others to serve; the next call does the rest."""
    monkeypatch.setattr(turns, "AT_A_TIME", 3)
    monkeypatch.setattr(turns, "HASTEN_SECONDS", 0.0)
    now, given_up = [0.0], []
    among = Turns(1, patience=0.0, late=0, longest=0.0, clock=lambda: now[0], begin_within=1.0)
    for number in range(6):
        among.begin("a", lambda turn: None, True, lambda number=number: given_up.append(number))
    while among.hasten():
        pass
    now[0] = 1.1
    seen = [(among.hasten(), len(given_up)) for _ in range(3)]
    assert seen == [(True, 3), (True, 5), (False, 5)]
    assert given_up == [*range(1, 6)]


def test_whoever_waits_to_begin_is_hastened_when_its_time_has_come(pool):
    """Not before; a thread that waits to go on is left to itself."""
    now = [0.0]
    among = Turns(1, patience=2.0, late=2, longest=3.0, clock=lambda: now[0])
    began = []
    for name in "abc":
        among.begin(name, lambda turn: began.append(turn.client))
    for now[0], wanted in ((1.9, "a"), (2.1, "abc")):
        among.hasten()
        assert "".join(began) == wanted


def test_whoever_gives_a_turn_back_begins_the_next_request():
    """In its own thread, with the turn; none waits in a thread meanwhile."""
    among, began = Turns(1, PATIENCE), []
    first = begun(among, "a")
    among.begin("b", began.append)
    assert not began
    first.leave()
    (second,) = began
    assert second.client == "b"
    assert not among._lines[0].free
    second.leave()
    second.leave()
    assert among._lines[0].free == 1


def waiting(among, many):
    """Wait until so many requests have a place in a line."""
    deadline = time.monotonic() + PATIENCE
    while sum(len(line._waiters) for line in among._lines) != many:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_turn_goes_to_the_client_with_the_fewest_requests(pool):
    """However long the many of another have waited; among equals the one that has waited longest comes first."""
    among = Turns(1, PATIENCE)
    first = Request(pool, among, client="many")
    assert first.begun.wait(PATIENCE)
    many = []
    for count in range(1, 4):
        many.append(Request(pool, among, client="many"))
        waiting(among, count)
    other = Request(pool, among, client="other")
    waiting(among, 4)
    ended(first)
    assert other.begun.wait(PATIENCE)
    assert not any(request.begun.is_set() for request in many)
    ended(other)
    for request in many:
        assert request.begun.wait(PATIENCE)
        ended(request)


@pytest.fixture
def crowd(pool):
    """Return what gives a client so many requests in service, which have left their turns."""
    woken = threading.Event()

    def make(among, many):
        left = threading.Semaphore(0)

        def wait():
            turns.leave()
            left.release()
            assert woken.wait(PATIENCE)

        requests = [Request(pool, among, wait, client="many", light=True) for _ in range(many)]
        for request in requests:
            request.go_on.set()
        assert all(left.acquire(timeout=PATIENCE) for _ in requests)

    yield make
    woken.set()


@pytest.mark.parametrize(
    ("many", "shared", "others", "noticed"),
    [
        (MANY, True, 1, True),
        (TIMES * 3, True, 3, True),
        (MANY - 1, True, 1, False),  # not many
        (MANY, False, 1, False),  # the models compute elsewhere
        (MANY, True, 0, False),  # there is nobody else
        (TIMES * 3 - 1, True, 3, False),  # the other has not so few
    ],
)
def test_a_client_has_too_many_requests_where_others_would_notice_one_more(pool, crowd, many, shared, others, noticed):
    """Until the others' have ended; one with few never has."""
    among = Turns(8, PATIENCE, shares_cores=lambda: shared)
    crowd(among, many)
    beside = [Request(pool, among, client="other") for _ in range(others)]
    assert all(request.begun.wait(PATIENCE) for request in beside)
    assert among.courtesy("many") == (COURTESY if noticed else 0)
    assert not among.courtesy("other")
    assert not among.courtesy("nobody")
    ended(*beside)
    assert not among.courtesy("many")


def test_a_request_counts_before_a_thread_has_it():
    """So that a burst of one client is not handed over whole."""
    among = Turns(MANY + 1, PATIENCE, shares_cores=lambda: True)
    begun(among, "other")
    for _ in range(MANY):
        assert not among.courtesy("many", light=True)
        turn = begun(among, "many", light=True)
    assert among.courtesy("many", light=True) == COURTESY
    with among.serving(turn):
        assert among.courtesy("many", light=True) == COURTESY
    assert not among.courtesy("many", light=True)


class OneByOne:
    """Clients whose requests are over before their next ones come."""

    def __init__(self, shares_cores=True, turns=OFTEN):
        self.now = 0.0
        self.among = Turns(turns, PATIENCE, shares_cores=lambda: shares_cores, clock=lambda: self.now)

    def serve(self, client, many, light=False):
        for _ in range(many):
            with self.among.serving(begun(self.among, client, light)):
                pass

    def courtesy(self, client="many", light=False):
        return self.among.courtesy(client, light)


def test_a_client_waits_that_had_many_times_what_others_had_lately():
    """While one of theirs is in service: what is over at once is work as well."""
    clients = OneByOne()
    clients.serve("many", OFTEN - 1)
    turn = begun(clients.among, "other")
    assert not clients.courtesy()
    clients.serve("many", 1)
    assert clients.courtesy() == PATIENT
    assert not clients.courtesy("other")
    assert not clients.courtesy("nobody")
    clients.serve("third", OFTEN // TIMES * 2)
    assert not clients.courtesy()  # it has had 16, and they 5 on average
    clients.serve("many", OFTEN)
    assert clients.courtesy() == PATIENT
    with clients.among.serving(turn):
        pass
    assert not clients.courtesy()  # nobody else is in service


def test_what_others_have_in_service_counts_however_long_ago_it_was_begun():
    """A client with many streams of its own is not told to wait by somebody who has some, too."""
    clients = OneByOne()
    for _ in range(OFTEN // TIMES + 1):
        begun(clients.among, "other")
    clients.now = 10 * LATELY  # they are forgotten, and go on
    clients.serve("many", OFTEN)
    assert not clients.courtesy()
    clients.serve("many", TIMES)
    assert clients.courtesy() == PATIENT


@pytest.mark.parametrize("rate", [2, 5, 8])
def test_a_busy_client_does_not_wait_beside_one_stream_of_another(rate):
    """Some requests a second are no flood, whatever else is open for however long."""
    clients = OneByOne()
    begun(clients.among, "other")
    for number in range(60 * rate):
        clients.now = number / rate
        assert not clients.courtesy()
        clients.serve("many", 1)


def test_who_reads_a_stream_makes_nobody_wait():
    """What is light takes nothing from anybody, and nothing is to be left for it."""
    clients = OneByOne()
    begun(clients.among, "reader", light=True)
    clients.serve("many", 3 * OFTEN)
    assert not clients.courtesy()


@pytest.mark.parametrize("turns", [1, BETWEEN, BETWEEN + 1])
def test_it_goes_on_between_the_requests_of_others_a_few_at_once(turns):
    """For the next one of the others would find all of them in service; where no others come, there is no bound."""
    clients = OneByOne(turns=turns)
    clients.serve("other", 1)
    clients.serve("many", OFTEN)
    for _ in range(max(BETWEEN, turns)):
        assert not clients.courtesy()
        clients.among.begin("many", lambda turn: None)
    assert clients.courtesy() == PATIENT
    clients.now = LATELY  # the other's one request counts no longer
    assert not clients.courtesy()


def test_what_was_begun_is_forgotten():
    """Half of it with every LATELY seconds, so that nobody waits for ever beside a long answer."""
    clients = OneByOne()
    clients.serve("many", 3 * OFTEN)
    begun(clients.among, "other")
    for clients.now, wanted in ((0.9 * LATELY, PATIENT), (LATELY, PATIENT), (2 * LATELY, 0), (9 * LATELY, 0)):
        assert clients.courtesy() == wanted
    clients.serve("many", OFTEN)
    assert clients.courtesy() == PATIENT
    clients.now = 10 * LATELY
    assert not clients.courtesy()


def test_what_is_light_counts_for_nothing_and_waits_for_nothing():
    """A page has many parts, each of them small."""
    clients = OneByOne()
    clients.serve("many", 3 * OFTEN, light=True)
    begun(clients.among, "other")
    assert not clients.courtesy()
    clients.serve("many", OFTEN)
    assert clients.courtesy() == PATIENT
    assert not clients.courtesy(light=True)


def test_nobody_waits_where_the_models_compute_elsewhere():
    """The threads have the cores for themselves."""
    clients = OneByOne(shares_cores=False)
    clients.serve("many", 3 * OFTEN)
    begun(clients.among, "other")
    assert not clients.courtesy()


def test_whoever_had_no_turn_takes_none_behind_a_wait():
    """A stream that is sent has left it for good, and would keep it while its client reads."""
    among = Turns(2, PATIENCE)
    turn = begun(among, "a")
    with among.serving(turn):
        with turns.elsewhere():
            assert not turn.held
            with turns.elsewhere():
                assert not turn.held
            assert not turn.held
        assert turn.held
        turns.leave()
        with turns.elsewhere():
            assert not turn.held
        assert not turn.held
    with turns.elsewhere():
        pass
