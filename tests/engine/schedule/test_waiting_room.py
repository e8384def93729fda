"""The waiting room: capacity is conserved, clients are treated equally, refusals are immediate, no request is lost."""

import threading
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DeadlineExceeded, NotReady, Overloaded, RequestAborted
from engine.schedule.in_flight import InFlight
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

    def __init__(self, capacity, slots=0):
        self.room, self.now = WaitingRoom(capacity, 1_000_000, lambda: self.now, slots), 0.0
        self.capacity, self.slots = capacity, slots
        self.preparing, self.waiting, self.running = [], [], []

    def admit(self, client):
        foretold = self.room.would_refuse(client)
        assert (foretold is None) is self.has_room(client)
        if foretold is None:
            self.room.admit(client)
            self.preparing.append(client)
            return
        with pytest.raises(Overloaded) as refused:
            self.room.admit(client)
        assert (str(foretold), foretold.retry_after) == (str(refused.value), refused.value.retry_after)

    def has_room(self, client):
        """Return whether as many places stay free as this client has waiting; a newcomer may take the last one."""
        waiting = [*self.preparing, *(submitted.request.client for submitted in self.waiting)]
        running = [submitted.request.client for submitted in self.running]
        after = self.capacity - len(waiting) - len(running) - 1
        if len(waiting) + len(running) < self.slots or client not in (*waiting, *running):
            return after >= 0
        return min(waiting.count(client), len(waiting) + len(running) - self.slots) + 1 <= after

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
            self.waiting.remove(taken)
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
        assert not any(isinstance(outcome(submitted), Overloaded) for submitted in self.waiting)
        self.waiting = [submitted for submitted in self.waiting if outcome(submitted) is None]
        return len(self.preparing) + len(self.waiting) + len(self.running)


actions = st.one_of(
    st.tuples(st.just("admit"), st.sampled_from("abcd")),
    st.tuples(st.just("queue"), st.booleans()),
    st.tuples(st.sampled_from(("give_up", "start", "end", "preempt", "abort")), st.none()),
    st.tuples(st.just("sweep"), st.sampled_from((0.0, 1.0, 6.0))),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(0, 3), st.lists(actions, max_size=60))
def test_capacity_is_conserved(capacity, slots, steps):
    """Whatever happens, those in flight are prepared, wait or run; there is room by the rule, and nobody gives way."""
    accounts = Accounts(capacity, min(slots, capacity))
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
        expected = room.heads(NO_SLOTS)
        submitted = start(room)
        assert [submitted] == expected
        taken[submitted.request.client].append(submitted)
    assert taken == put
    assert room.heads(NO_SLOTS) == []
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
    assert room.heads(held)[0].request.client == "late"
    assert start(room, held).request.client == "late"
    assert start(room, held).request.client == "greedy"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 40), st.lists(st.sampled_from(("ask", "start", "end")), max_size=80))
def test_a_greedy_client_cannot_keep_others_out(slots, places, steps):
    """Whatever it has asked for, a newcomer finds room at once, and so do as many newcomers as it has waiting.

    Alone it may run in every slot, and wait in half of the places at most.
    """
    room, running = WaitingRoom(slots + places, 1_000_000, slots=slots), []

    def ask(client):
        with suppress(Overloaded):
            come(room, client)

    for step in ["ask"] * (slots + places) + steps:
        if step == "ask":
            ask("greedy")
        elif step == "start" and len(running) < slots and (taken := start(room)) is not None:
            running.append(taken)
        elif step == "end" and running:
            room.release(running.pop().request.client)
    waiting = len(room) - max(0, slots - len(running))  # the others can run at once
    assert waiting <= places // 2
    for number in range(max(1, waiting)):
        come(room, f"newcomer-{number}")


def test_clients_with_one_request_each_fill_the_queue():
    """The rule costs nobody a place where all are alike; then a refusal comes at once, and nobody gives way."""
    room = WaitingRoom(12, 1_000_000, slots=4)
    made = [come(room, f"client-{number}") for number in range(12)]
    with pytest.raises(Overloaded):
        room.admit("last")
    assert [outcome(submitted) for submitted in made] == [None] * 12


@pytest.mark.parametrize("started", [0, 3, 8])
def test_a_client_alone_takes_the_slots_and_half_of_the_queue(started):
    """However many of its requests have started by then."""
    room = WaitingRoom(8 + 12, 1_000_000, slots=8)
    made = [come(room, "a") for _ in range(8)]
    for _ in range(started):
        start(room)
    made += [come(room, "a") for _ in range(6)]
    with pytest.raises(Overloaded):
        room.admit("a")
    made += [come(room, f"newcomer-{number}") for number in range(6)]
    assert [outcome(submitted) for submitted in made] == [None] * 20


def test_a_share_shrinks_with_the_clients_that_wait():
    """Alone half of the queue, then half of the rest, and so on; what a client holds beyond its share is kept."""
    room = WaitingRoom(28, 1_000_000, slots=4)
    for _ in range(4):
        come(room, "a")
        start(room)

    def fill(client):
        for _ in range(28):
            with suppress(Overloaded):
                come(room, client)
        return Counter(submitted.request.client for submitted in room._queue)

    assert fill("a") == {"a": 12}
    assert fill("b") == {"a": 12, "b": 6}
    assert fill("c") == {"a": 12, "b": 6, "c": 3}
    assert len(room) < 24
    assert room.would_refuse("a") is not None
    for _ in range(10):
        room.release(start(room).request.client)
    assert fill("c")["c"] >= 5


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize(("capacity", "slots"), [(1, 1), (2, 1), (3, 1), (9, 4), (10, 4), (192, 64), (8, 8), (1, 0)])
def test_it_is_told_how_many_requests_one_client_can_have(capacity, slots, started):
    """Exactly so many are admitted where nobody else asks and none has ended, whether they wait or run already."""
    room, admitted = WaitingRoom(capacity, 1_000_000, slots=slots), 0
    while room.would_refuse("a") is None:
        come(room, "a")
        admitted += 1
        if started and admitted <= slots:
            start(room)
    assert admitted == room.most_of_one


def test_a_preempted_request_counts_as_waiting():
    """Its client has one more in the queue, and less room for others."""
    room = WaitingRoom(6, 1_000_000, slots=1)
    come(room, "a")
    running = start(room)
    come(room, "b")
    start(room)
    room.put_back(running)
    come(room, "a")
    assert room.would_refuse("a") is not None
    assert room.would_refuse("b") is None


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
    """One may hold half of it; who holds none gets what is left, and nobody's prompt gives way."""
    room = WaitingRoom(20, 100)
    greedy = [come(room, "greedy", tokens=25) for _ in range(2)]
    room.admit("greedy")
    with pytest.raises(Overloaded):
        room.put(sequence("greedy", tokens=1))
    room.give_up("greedy")
    modest = come(room, "modest", tokens=50)
    assert [outcome(submitted) for submitted in (*greedy, modest)] == [None] * 3
    room.admit("third")
    with pytest.raises(Overloaded):
        room.put(sequence("third", tokens=1))


def test_interactive_requests_start_before_batches_which_are_not_starved():
    """Every eighth start is a batch's while one waits."""
    room = WaitingRoom(200, 1_000_000)
    for _ in range(40):
        come(room, "visitor")
        come(room, "job", batch=True)
    order = [start(room).request.client for _ in range(3 * BATCH_EVERY)]
    assert order == (["visitor"] * (BATCH_EVERY - 1) + ["job"]) * 3


@pytest.mark.parametrize(("slots", "turns"), [(1, 0), (60, 0), (0, 2)])
def test_batches_that_hold_their_part_of_the_slots_have_no_turn(slots, turns):
    """It would not free a slot, and all behind it would wait for one; places in the queue are those of the starts.

    What they have no turn for then is made up for.
    """
    room = WaitingRoom(200, 1_000_000)
    held = {Priority.HIGH: {}, Priority.INTERACTIVE: {"a": 4, "b": 3}, Priority.BATCH: {"job": slots} if slots else {}}
    for _ in range(20):
        come(room, "visitor")
        come(room, "job", batch=True)
    for _ in range(2 * BATCH_EVERY):
        order = [*room._queue.order(held)]
        assert room.heads(held)[0] is order[0]
        turns -= start(room, held).request.client == "job"
    assert turns == 0
    held = {**held, Priority.BATCH: {}}
    assert (start(room, held).request.client == "job") is (slots > 0)


@pytest.mark.parametrize(
    ("waiting", "starts"),
    [
        (("high", "visitor", "job"), "high visitor high high high visitor high job"),
        (("high", "visitor"), "high visitor high high high visitor high high"),
        (("high", "job"), "high high high high high high high job"),
    ],
)
def test_high_priority_starts_first_and_starves_nobody(waiting, starts):
    """A quarter of the starts is for interactive requests, and an eighth for batches, while such wait."""
    room = WaitingRoom(200, 1_000_000)
    for _ in range(24):
        for client in waiting:
            come(room, client, high=client == "high", batch=client == "job")
    assert [start(room).request.client for _ in range(16)] == starts.split() * 2


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


def test_an_abort_of_a_running_sequence_is_told_once():
    """Whatever a sweep of those that wait has seen of it."""
    room = WaitingRoom(5, 1000)
    come(room, "a")
    running = start(room)
    assert not room.abort_of_running()
    running.generation.abort()
    assert room.sweep(0.0) == []
    assert room.abort_of_running()
    assert not room.abort_of_running()


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


def test_each_wait_ends_on_time_whichever_ended_before():
    """After one has ended, the next limit is the earliest of those that are left."""
    room = WaitingRoom(9, 1000)
    waiting = {seconds: come(room, "a", wait=seconds) for seconds in (5.0, 20.0, 50.0)}
    for seconds, submitted in waiting.items():
        assert [ended for ended, _ in room.sweep(seconds)] == [submitted]


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
    for client in "abc":
        come(room, client)
    assert room.estimated_wait() == pytest.approx(6.0)
    with pytest.raises(Overloaded) as refused:
        room.admit("a")
    assert refused.value.retry_after == 6


def test_retry_after_counts_those_ahead_within_bounds():
    """At least a second, at most a minute, in between the measured rate times the queue."""
    clock = Clock()
    room = WaitingRoom(30, 1_000_000, clock)
    for number in range(30):
        come(room, f"client-{number}")
    with pytest.raises(Overloaded) as refused:
        room.admit("a")
    assert refused.value.retry_after == 1
    for _ in range(2):
        start(room)
    clock.advance(10)
    room.release("client-0")
    room.admit("a")
    with pytest.raises(Overloaded) as refused:
        room.admit("a")
    assert refused.value.retry_after == LONGEST_RETRY_AFTER


def test_refusals_do_not_speed_up_the_measured_rate():
    """Only a sequence that ran and ended is measured."""
    clock = Clock()
    room = WaitingRoom(4, 1_000_000, clock)
    for client in "abcd":
        come(room, client)
    start(room)
    clock.advance(4)
    room.release("a")
    room.admit("bad")
    room.give_up("bad")
    come(room, "other")
    with pytest.raises(Overloaded):
        room.admit("last")
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
    """Admissions race with starts, ends, refusals and sweeps; all come to their end, and the room is empty."""
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

    clients = [threading.Thread(target=client, args=(name,), daemon=True) for name in "abcd"]
    worker = threading.Thread(target=engine, daemon=True)
    for thread in (*clients, worker):
        thread.start()
    for thread in clients:
        thread.join(PATIENCE)
    done.set()
    worker.join(PATIENCE)
    assert not any(thread.is_alive() for thread in (*clients, worker))
    assert room.num_in_flight() == 0
    assert room.check([]) is None


def test_a_batch_of_another_client_is_not_behind_all_of_one():
    """It comes into the queue, where clients take turns, and still leaves half of it to others."""
    room = WaitingRoom(40, 1_000_000, lambda: 0.0, slots=8)

    def submitted(client):
        if room.admit_when_free(client, True, lambda: None):
            room.put(sequence(client, batch=True), of_batch=True)
            return True
        return False

    assert [submitted("many") for _ in range(40)] == [True] * 16 + [
        False
    ] * 24  # the slots, and half of what batches have
    assert [submitted(f"other-{number}") for number in range(10)] == [True] * 8 + [False] * 2
    assert room.num_in_flight() == 24


def test_the_batch_of_the_client_with_the_fewest_in_flight_is_woken_first():
    """However many of another came before it; of one client, the first."""
    woken, flight = [], InFlight(8, 4, lambda: 0.0, lambda client: 0, lambda: 0)
    for client in ("many", "many", "other"):
        flight.enter(client)
    for name, client in (("first", "many"), ("second", "many"), ("third", "other"), ("fourth", "new")):
        flight.expect(partial(woken.append, name), client, alone=False)
    for _ in range(5):
        flight.wake_batch()
    assert woken == ["fourth", "third", "first", "second"]
