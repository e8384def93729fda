"""The waiting room: capacity is conserved, clients are treated equally, refusals are immediate, no request is lost."""

import random
import threading
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DeadlineExceeded, NotReady, Overloaded, RequestAborted
from engine.schedule.priority_queues import BATCH_EVERY
from engine.schedule.waiting_room import LONGEST_RETRY_AFTER, WaitingRoom
from engine.types import Priority
from tests.engine.sequences import outcome, sequence
from tests.fakes import PATIENCE, Clock


def come(room, client="", **details):
    """Admit a request and queue it; return its sequence."""
    room.admit(client)
    submitted = sequence(client, on_abort=room.notify_abort, **details)
    room.put(submitted)
    return submitted


NO_SLOTS = {priority: {} for priority in Priority}


def start(room, held=NO_SLOTS):
    """Take the next as the engine does; held: the slots of clients."""
    taken = room.take(held)
    if taken is not None:
        taken.started_at = 0.0
    return taken


class Accounts:
    """A waiting room, and its expected content by a simple model."""

    def __init__(self, capacity):
        self.room, self.now = WaitingRoom(capacity, 1_000_000, lambda: self.now), 0.0
        self.preparing, self.waiting, self.running = [], [], []

    def admit(self, client):
        try:
            self.room.admit(client)
        except Overloaded:
            assert self.total() >= self.room._in_flight.capacity
        else:
            self.preparing.append(client)

    def queue(self, batch):
        if self.preparing:
            client = self.preparing.pop()
            submitted = sequence(client, batch=batch, arrival=self.now, wait=5.0, on_abort=self.room.notify_abort)
            self.room.put(submitted)
            self.waiting.append(submitted)

    def give_up(self, _):
        if self.preparing:
            self.room.give_up(self.preparing.pop())

    def start(self, _):
        if (taken := start(self.room)) is not None:
            self.running.append(taken)

    def end(self, _):
        if self.running:
            self.room.release(self.running.pop().request.client)

    def preempt(self, _):
        if self.running:
            submitted = self.running.pop()
            self.room.put_back(submitted)
            self.waiting.append(submitted)

    def abort(self, _):
        waiting = [submitted for submitted in self.waiting if outcome(submitted) is None]
        if waiting:
            waiting[-1].generation.abort()

    def sweep(self, seconds):
        self.now += seconds
        for submitted, error in self.room.sweep(self.now):
            submitted.generation.fail(error)

    def total(self):
        self.waiting = [
            submitted for submitted in self.waiting if outcome(submitted) is None and submitted not in self.running
        ]
        return len(self.preparing) + len(self.waiting) + len(self.running)


actions = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("abc")),
    st.tuples(st.just("queue"), st.booleans()),
    st.tuples(st.sampled_from(("give_up", "start", "end", "preempt", "abort")), st.none()),
    st.tuples(st.just("sweep"), st.sampled_from((0.0, 1.0, 6.0))),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(actions, max_size=60))
def test_capacity_is_conserved(capacity, steps):
    """Whatever happens, the requests in flight are those that are prepared, wait or run."""
    accounts = Accounts(capacity)
    for action, detail in steps:
        getattr(accounts, action)(detail)
        assert accounts.total() == accounts.room.num_in_flight() <= capacity
        assert accounts.room.check(accounts.running) is None
        assert len(accounts.room) == len(accounts.waiting)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 600)), max_size=40))
def test_a_clients_requests_start_in_their_order(arrivals):
    """Fairness is between clients; within one it is first come, first served."""
    room = WaitingRoom(100, 1_000_000)
    put, taken = defaultdict(list), defaultdict(list)
    for client, tokens in arrivals:
        put[client].append(come(room, client, tokens=tokens))
    for _ in arrivals:
        expected = room.peek(NO_SLOTS)
        submitted = start(room)
        assert submitted is expected
        taken[submitted.request.client].append(submitted)
    assert taken == put
    assert room.peek(NO_SLOTS) is None
    assert start(room) is None


def test_clients_share_starts_by_tokens():
    """A client whose requests are four times as long starts a quarter as many."""
    room = WaitingRoom(1000, 1_000_000)
    for _ in range(100):
        come(room, "small", tokens=200, max_tokens=56)
        come(room, "large", tokens=800, max_tokens=224)
    started = Counter(start(room).request.client for _ in range(50))
    assert started["small"] == pytest.approx(40, abs=4)


def started_of(room, writes, count=60):
    """Start so many, each ended at once with as many tokens as its client writes; return how many each client had."""
    started = Counter()
    for _ in range(count):
        taken = start(room)
        client = taken.request.client
        for _ in range(writes[client]):
            taken.append(0)
        room.release(client, taken)
        started[client] += 1
    return started


@pytest.mark.parametrize("bound", [300, 2048, 4000])
def test_a_bound_that_nobody_reaches_costs_nobody(bound):
    """Clients that leave the length open share starts with those who ask for a usual one."""
    room = WaitingRoom(1000, 1_000_000)
    for _ in range(100):
        come(room, "open", tokens=44, max_tokens=bound)
        come(room, "usual", tokens=44, max_tokens=256)
    assert started_of(room, {"open": 50, "usual": 50})["open"] == pytest.approx(30, abs=2)


def test_what_is_generated_beyond_a_usual_answer_counts_at_its_end():
    """A client whose answers are four times as long starts a quarter as many, whatever bound it gave."""
    room = WaitingRoom(1000, 1_000_000)
    for _ in range(100):
        come(room, "short", tokens=100, max_tokens=2048)
        come(room, "long", tokens=100, max_tokens=2048)
    assert started_of(room, {"short": 256, "long": 1324})["short"] == pytest.approx(48, abs=4)


def test_the_client_with_the_fewest_slots_starts_first():
    """A new client does not wait for a round in which others with slots take part."""
    room = WaitingRoom(1000, 1_000_000)
    for _ in range(3):
        come(room, "greedy", tokens=1)
    come(room, "late", tokens=2000)
    held = NO_SLOTS | {Priority.INTERACTIVE: {"greedy": 1}}
    assert room.peek(held).request.client == "late"
    assert start(room, held).request.client == "late"
    assert start(room, held).request.client == "greedy"


def test_a_greedy_client_cannot_keep_others_out():
    """At capacity, a client with fewer requests evicts the newest waiting one of the client with most."""
    room = WaitingRoom(8, 1_000_000)
    greedy = [come(room, "greedy") for _ in range(8)]
    start(room)
    modest = [come(room, "modest") for _ in range(4)]
    assert all(outcome(submitted) is None for submitted in modest)
    evicted = [outcome(submitted) for submitted in greedy[4:]]
    assert all(isinstance(error, Overloaded) for error in evicted)
    with pytest.raises(Overloaded):
        room.admit("modest")
    with pytest.raises(Overloaded):
        room.admit("greedy")
    room.admit("third")


def test_a_running_or_preempted_request_is_never_evicted():
    """Only waiting requests that never ran are; a preempted one has begun to answer."""
    room = WaitingRoom(2, 1_000_000)
    come(room, "greedy")
    come(room, "greedy")
    running = start(room)
    room.put_back(start(room))
    with pytest.raises(Overloaded):
        room.admit("other")
    assert outcome(running) is None


def test_waiting_prompts_are_bounded_in_tokens():
    """A flood of long prompts is refused, one prompt of any length is not."""
    room = WaitingRoom(10, 100)
    come(room, "a", tokens=500)
    room.admit("a")
    with pytest.raises(Overloaded):
        room.put(sequence("a", tokens=1))
    room.give_up("a")
    assert room.num_in_flight() == 1
    assert room.check([]) is None


def test_a_client_cannot_fill_the_bound_on_tokens_alone():
    """One whose waiting prompts hold less gets room from the one whose prompts hold most."""
    room = WaitingRoom(20, 100)
    greedy = [come(room, "greedy", tokens=25) for _ in range(4)]
    modest = come(room, "modest", tokens=20)
    assert outcome(modest) is None
    assert [isinstance(outcome(submitted), Overloaded) for submitted in greedy] == [False, False, False, True]
    room.admit("modest")
    with pytest.raises(Overloaded):
        room.put(sequence("modest", tokens=90))


def test_interactive_requests_start_before_batches_which_are_not_starved():
    """Every eighth start is a batch's while one waits."""
    room = WaitingRoom(200, 1_000_000)
    for _ in range(40):
        come(room, "visitor")
        come(room, "job", batch=True)
    order = [start(room).request.client for _ in range(3 * BATCH_EVERY)]
    assert order == (["visitor"] * (BATCH_EVERY - 1) + ["job"]) * 3


def test_a_batch_alone_starts_at_once():
    """It does not wait while there are no interactive requests."""
    room = WaitingRoom(5, 1000)
    submitted = come(room, "job", batch=True)
    assert start(room) is submitted


def test_a_preempted_sequence_is_first_of_its_client():
    """It has already waited."""
    room = WaitingRoom(5, 1000)
    come(room, "a")
    first = start(room)
    come(room, "a")
    room.put_back(first)
    assert start(room) is first


def test_an_abort_ends_a_waiting_request_at_the_next_sweep():
    """It never starts, and its capacity is free."""
    room = WaitingRoom(5, 1000)
    kept, left = come(room, "a"), come(room, "a")
    assert room.sweep(0.0) == []
    left.generation.abort()
    ((submitted, error),) = room.sweep(0.0)
    assert submitted is left
    assert isinstance(error, RequestAborted)
    assert (start(room), start(room), room.num_in_flight()) == (kept, None, 1)


def test_a_request_waits_no_longer_than_it_said():
    """Each has its own limit; the message says whether it was waiting or running."""
    room = WaitingRoom(5, 1000)
    short, long = come(room, "a", wait=5.0), come(room, "a", wait=50.0, timeout=60.0)
    assert room.sweep(4.9) == []
    ((submitted, error),) = room.sweep(5.0)
    assert submitted is short
    assert isinstance(error, DeadlineExceeded)
    assert "turn" in error.message
    room.put_back(start(room))
    assert room.sweep(50.0) == []
    ((submitted, error),) = room.sweep(60.0)
    assert submitted is long
    assert "finish in time" in error.message


def test_the_rate_is_that_of_a_busy_engine():
    """An hour without requests does not make a client wait a minute."""
    clock = Clock()
    room = WaitingRoom(3, 1_000_000, clock)
    for _ in range(5):
        clock.advance(3600)
        come(room, "a")
        start(room)
        clock.advance(2)
        room.release("a")
    for _ in range(3):
        come(room, "a")
    assert room.estimated_wait() == pytest.approx(6.0)
    with pytest.raises(Overloaded) as refused:
        room.admit("a")
    assert refused.value.retry_after == 6


def test_retry_after_counts_those_ahead_within_bounds():
    """At least a second, at most a minute, in between the measured rate times the queue."""
    clock = Clock()
    room = WaitingRoom(30, 1_000_000, clock)
    for _ in range(30):
        come(room, "a")
    with pytest.raises(Overloaded) as refused:
        room.admit("a")
    assert refused.value.retry_after == 1
    for _ in range(2):
        start(room)
    clock.advance(10)
    room.release("a")
    room.admit("a")
    with pytest.raises(Overloaded) as refused:
        room.admit("a")
    assert refused.value.retry_after == LONGEST_RETRY_AFTER


def test_refusals_and_evictions_do_not_speed_up_the_measured_rate():
    """Only a sequence that ran and ended is measured."""
    clock = Clock()
    room = WaitingRoom(4, 1_000_000, clock)
    for _ in range(4):
        come(room, "greedy")
    start(room)
    clock.advance(4)
    room.release("greedy")
    room.admit("bad")
    room.give_up("bad")
    come(room, "other")
    come(room, "other")
    assert room.estimated_wait() == pytest.approx(4.0 * 4)


def test_a_closed_room_refuses_and_loses_no_request():
    """A request that was being prepared when it closed gets an error instead of waiting forever."""
    room = WaitingRoom(5, 1000)
    waiting = come(room, "a")
    room.admit("b")
    room.close()
    assert room.clear() == [waiting]
    with pytest.raises(NotReady):
        room.put(sequence("b"))
    room.give_up("b")
    with pytest.raises(NotReady):
        room.admit("c")
    assert room.num_in_flight() == 0


def test_clear_keeps_requests_in_flight_that_are_being_prepared():
    """They will be queued after the restart."""
    room = WaitingRoom(5, 1000)
    come(room, "a")
    come(room, "a")
    start(room)
    room.admit("b")
    room.clear()
    assert room.num_in_flight() == 1
    room.put(sequence("b"))
    assert start(room).request.client == "b"


def test_waiting_for_emptiness_ends_with_the_last_request():
    """The last release wakes the waiting thread; it does not poll."""
    room = WaitingRoom(5, 1000)
    come(room, "a")
    start(room)
    room.wait_until_empty(0.0)
    waiter = threading.Thread(target=room.wait_until_empty, args=(PATIENCE,))
    waiter.start()
    room.release("a")
    waiter.join(PATIENCE / 2)
    assert not waiter.is_alive()


def test_check_names_a_request_in_flight_without_an_owner():
    """Lost capacity, and tokens of no waiting sequence, are found."""
    room = WaitingRoom(5, 1000)
    come(room, "a")
    lost = start(room)
    assert room.check([lost]) is None
    assert "1 requests" in room.check([])
    come(room, "a")
    room._queue.tokens += 1
    assert "tokens" in room.check([lost])


@pytest.mark.parametrize("round_", range(5))
def test_many_threads_and_an_engine_conserve_capacity(round_):
    """Admissions race with starts, ends, evictions and sweeps; in the end the room is empty."""
    room = WaitingRoom(8, 10_000)
    done = threading.Event()

    def client(name):
        for number in range(100):
            try:
                room.admit(name)
            except Overloaded:
                continue
            if number % 5 == 0:
                room.give_up(name)
                continue
            submitted = sequence(name, on_abort=room.notify_abort)
            room.put(submitted)
            if number % 7 == 0:
                submitted.generation.abort()

    def engine():
        while not done.is_set() or len(room):
            for submitted, error in room.sweep(0.0):
                submitted.generation.fail(error)
            if (submitted := start(room)) is not None:
                room.release(submitted.request.client)

    clients = [threading.Thread(target=client, args=(name,)) for name in "abcd"]
    worker = threading.Thread(target=engine)
    for thread in (*clients, worker):
        thread.start()
    for thread in clients:
        thread.join(PATIENCE)
    done.set()
    worker.join(PATIENCE)
    assert room.num_in_flight() == 0
    assert room.check([]) is None


@pytest.mark.parametrize("seed", range(20))
def test_would_refuse_foretells_admit(seed):
    """At every moment it says what `admit` does, and changes nothing."""
    rng, made = random.Random(seed), WaitingRoom(6, 1000)
    for _ in range(60):
        client = rng.choice("aaab")
        before = made.num_in_flight()
        foretold = made.would_refuse(client)
        assert made.num_in_flight() == before
        if rng.random() < 0.3 and (started := made.take({priority: {} for priority in Priority})) is not None:
            made.release(started.request.client)
            continue
        if foretold is None:
            made.admit(client)
            made.put(sequence(client))
            continue
        with pytest.raises(Overloaded) as told:
            made.admit(client)
        assert (str(foretold), foretold.retry_after) == (str(told.value), told.value.retry_after)


def test_a_refusal_is_forgotten_when_another_client_becomes_greedy():
    """Who was refused is admitted as soon as another client's second request waits, however often it was refused."""
    room = WaitingRoom(3, 1000)
    for client in "abc":
        come(room, client)
    assert [room.would_refuse("new") is None for _ in range(3)] == [False] * 3
    room.release("a")
    room.admit("b")
    assert room.would_refuse("new") is None, "the first request of b waits and can be evicted"
    room = WaitingRoom(3, 1000)
    for _ in range(3):
        room.admit("greedy")
    assert room.would_refuse("new") is not None, "what is being prepared is not evicted"
    room.put(sequence("greedy"))
    assert room.would_refuse("new") is None
    room.admit("new")
    assert room.num_in_flight() == 3


def test_who_was_told_200_is_never_evicted():
    """The greediest client's newest answer that is not committed is; without any, the newcomer is refused."""
    room = WaitingRoom(8, 1000)
    made = [come(room, "greedy") for _ in range(4)]
    assert [room.commit_early(one.generation) for one in made] == [True] * 4
    made += [come(room, "greedy") for _ in range(4)]
    for number in (7, 6, 5, 4):
        room.admit(f"other-{number}")
        assert [one.generation.done for one in made] == [at >= number for at in range(8)]
        assert outcome(made[number]).retry_after >= 1
    assert str(room.would_refuse("last")) == "The service is busy; try again later."
    with pytest.raises(Overloaded):
        room.admit("last")


def test_streams_that_wait_are_committed_up_to_half_of_the_capacity():
    """Beyond it a client is told nothing, so that its place can go to another one; what starts is committed."""
    room = WaitingRoom(8, 1000)
    made = [come(room, "greedy") for _ in range(8)]
    assert not any(room.commit_early(one.generation) for one in made)
    first = room.take({priority: {} for priority in Priority})
    assert first is made[0]
    assert [one.generation.committed for one in made] == [True] + [False] * 7
    for one in range(4):
        room.admit(f"other-{one}")
        room.give_up(f"other-{one}")
    assert [one.generation.done for one in made] == [False] * 7 + [True]
    for _ in range(3):
        room.release("greedy")
    assert room.commit_early(made[1].generation)
