"""Batches share the free slots, one request of each may wait for one, and all of them do not fill the queue."""

import threading
from collections import Counter, deque
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.backend import Mailbox
from engine.errors import ModelError, NotReady, Overloaded
from engine.schedule.waiting_room import WaitingRoom
from engine.types import Priority
from tests.engine.sequences import outcome, sequence
from tests.fakes import PATIENCE, Clock

NO_SLOTS = {priority: {} for priority in Priority}


class Waker:
    """Counts how often its batch was woken."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1


def room_of(slots, waiting, max_tokens=1_000_000):
    """Return a room on a clock that stands still."""
    return WaitingRoom(slots + waiting, max_tokens, Clock(), slots=slots)


def come(room, client="", **details):
    """Admit an interactive request and queue it."""
    room.admit(client)
    made = sequence(client, on_abort=room.notify_abort, **details)
    room.put(made)
    return made


def submit(room, wake, alone, client="job", **details):
    """Submit a request of a batch; return its sequence, None if it has to wait."""
    if not room.admit_when_free(client, alone, wake):
        return None
    made = sequence(client, batch=True, on_abort=room.notify_abort, **details)
    room.put(made, of_batch=True)
    return made


def end(room):
    """Start the next sequence and end it."""
    made = room.take(NO_SLOTS)
    room.release(made.request.client)
    return made


def test_a_batch_takes_the_free_slots_and_does_not_queue():
    """The third of three has to wait, although the queue is empty."""
    room, wake = room_of(2, 10), Waker()
    assert submit(room, wake, alone=True)
    assert submit(room, wake, alone=False)
    assert submit(room, wake, alone=False) is None
    assert (room.num_in_flight(), wake.calls) == (2, 0)


def test_each_end_wakes_a_waiting_batch_once():
    """It is not woken again until it has tried again."""
    room, wake = room_of(2, 10), Waker()
    submit(room, wake, alone=True)
    submit(room, wake, alone=False)
    submit(room, wake, alone=False)
    end(room)
    assert wake.calls == 1
    end(room)
    assert wake.calls == 1
    assert submit(room, wake, alone=True)


def test_a_batch_without_a_request_in_flight_may_wait_in_the_queue():
    """So it makes progress while others keep every slot."""
    room, wake = room_of(1, 2), Waker()
    come(room, "a")
    assert submit(room, wake, alone=False) is None
    assert submit(room, wake, alone=True)
    assert room.num_in_flight() == 2


def test_a_batch_alone_is_woken_when_the_queue_is_no_longer_full():
    """It waits for capacity of any kind, not for a slot."""
    room, wake = room_of(1, 1), Waker()
    come(room, "a")
    come(room, "b")
    assert submit(room, wake, alone=True) is None
    end(room)
    assert wake.calls == 1
    assert submit(room, wake, alone=True)


def test_a_batch_alone_finds_room_beside_a_greedy_client():
    """As any other client's request does; nobody gives way for it."""
    room, wake = room_of(1, 3), Waker()
    greedy = [come(room, "greedy")]
    with suppress(Overloaded):
        greedy += [come(room, "greedy") for _ in range(3)]
    assert submit(room, wake, alone=True, client="job")
    assert [outcome(submitted) for submitted in greedy] == [None] * len(greedy)


def test_batches_of_many_clients_leave_half_of_the_queue_to_others():
    """However many there are; new clients find the rest of the queue, as without them."""
    room, wakes = room_of(2, 10), [Waker() for _ in range(20)]
    come(room, "a")
    come(room, "b")
    waiting = [submit(room, wake, alone=True, client=f"job-{number}") for number, wake in enumerate(wakes)]
    assert [made is not None for made in waiting] == [True] * 5 + [False] * 15
    for number in range(5):
        come(room, f"new-{number}")
    with pytest.raises(Overloaded):
        room.admit("one too many")
    assert room.check([room.take(NO_SLOTS), room.take(NO_SLOTS)]) is None


def test_batches_of_one_client_leave_room_for_those_of_another():
    """A quarter of the queue is all that one client's hold, so the first text of another's waits in it at once."""
    room = room_of(2, 16)
    come(room, "a")
    come(room, "b")
    greedy = [submit(room, Waker(), alone=True, client="greedy") for _ in range(20)]
    assert sum(made is not None for made in greedy) == 4
    for number in range(2):
        assert submit(room, Waker(), alone=True, client=f"other-{number}")


def test_the_client_with_the_fewest_requests_is_woken_first():
    """Not the one whose batches came first; among equals the one that has waited longest."""
    room, wakes = room_of(3, 1), {name: Waker() for name in ("greedy", "first", "second")}
    for client in ("greedy", "greedy", "greedy", "a"):
        come(room, client)
    for name, wake in wakes.items():
        assert submit(room, wake, alone=True, client=name) is None
    made = room.take(NO_SLOTS)
    room.release(made.request.client)
    assert [wake.calls for wake in wakes.values()] == [0, 1, 0]


def test_the_prompts_of_one_clients_batches_leave_room_for_those_of_anothers():
    """Tokens are shared as requests are, between the clients of batches too."""
    room = room_of(1, 10, max_tokens=100)
    come(room, "a")
    room.take(NO_SLOTS)
    assert submit(room, Waker(), alone=True, client="greedy", tokens=20)
    assert room.admit_when_free("greedy", True, Waker())
    with pytest.raises(Overloaded):
        room.put(sequence("greedy", tokens=20, batch=True), of_batch=True)
    room.give_up("greedy", of_batch=True)
    assert submit(room, Waker(), alone=True, client="other", tokens=20)


def test_the_next_batch_waits_in_the_queue_once_another_has_left_it():
    """It is woken when the text of another batch starts, though none has ended."""
    room, wakes = room_of(1, 9), [Waker() for _ in range(6)]
    come(room, "a")
    come(room, "b")
    for number, wake in enumerate(wakes):
        submit(room, wake, alone=True, client=f"job-{number}")
    assert len(room) == 2 + 4
    end(room)
    assert room.take(NO_SLOTS).request.client == "b"
    assert [wake.calls for wake in wakes] == [0] * 6
    assert room.take(NO_SLOTS).request.client == "job-0"
    assert [wake.calls for wake in wakes] == [0, 0, 0, 0, 1, 0]
    assert submit(room, wakes[4], alone=True, client="job-4")
    assert submit(room, wakes[5], alone=True, client="job-5") is None


def test_a_batch_alone_may_take_the_last_place():
    """As any client without a request may, if no other batch waits."""
    room = room_of(1, 3)
    for client in ("a", "b", "c"):
        come(room, client)
    assert submit(room, Waker(), alone=True)
    assert room.num_in_flight() == 4


def test_the_prompts_of_batches_leave_room_for_those_of_others():
    """Tokens are shared as requests are: their clients count together as one."""
    room = room_of(1, 10, max_tokens=100)
    come(room, "a")
    running = room.take(NO_SLOTS)
    for client in ("first", "second"):
        assert submit(room, Waker(), alone=True, client=client, tokens=20)
    assert room.admit_when_free("third", True, Waker())
    with pytest.raises(Overloaded):
        room.put(sequence("third", tokens=20, batch=True), of_batch=True)
    room.give_up_for_now("third", True, Waker())
    come(room, "new", tokens=60)
    assert room.check([running]) is None


def test_a_prompt_that_finds_no_room_wakes_no_other_batch():
    """That would prepare its own in vain, and wake the first one for it, and so on."""
    room, wakes = room_of(2, 10, max_tokens=100), {"first": Waker(), "second": Waker()}
    come(room, "a", tokens=90)
    come(room, "b")
    for name, wake in wakes.items():
        assert room.admit_when_free(name, True, wake)
        with pytest.raises(Overloaded):
            room.put(sequence(name, tokens=50, batch=True), of_batch=True)
        room.give_up_for_now(name, True, wake)
    assert [wake.calls for wake in wakes.values()] == [0, 0]
    end(room)
    assert [wake.calls for wake in wakes.values()] == [1, 0]


def test_batches_are_woken_in_turn():
    """Each free slot goes to the one that has waited longest."""
    room, wakes = room_of(2, 10), [Waker() for _ in range(3)]
    come(room, "a")
    come(room, "a")
    for wake in wakes:
        assert submit(room, wake, alone=False) is None
    end(room)
    assert [wake.calls for wake in wakes] == [1, 0, 0]
    assert submit(room, wakes[0], alone=False)
    assert submit(room, wakes[0], alone=False) is None
    end(room)
    assert [wake.calls for wake in wakes] == [1, 1, 0]


def test_a_batch_that_stops_waiting_passes_its_turn_on():
    """A slot that one was woken for and does not use goes to the next."""
    room, first, second = room_of(1, 10), Waker(), Waker()
    come(room, "a")
    submit(room, first, alone=False)
    submit(room, second, alone=False)
    end(room)
    room.stop_waiting(first)
    assert (first.calls, second.calls) == (1, 1)


def test_a_batch_that_stops_waiting_is_not_woken():
    """The next end wakes another."""
    room, first, second = room_of(1, 10), Waker(), Waker()
    come(room, "a")
    submit(room, first, alone=False)
    submit(room, second, alone=False)
    room.stop_waiting(first)
    end(room)
    assert (first.calls, second.calls) == (0, 1)


def test_a_slot_that_is_taken_by_another_wakes_no_batch():
    """An end that leaves no slot free does not wake a batch."""
    room, wake = room_of(1, 10), Waker()
    come(room, "a")
    come(room, "b")
    submit(room, wake, alone=False)
    end(room)
    assert wake.calls == 0
    end(room)
    assert wake.calls == 1


def test_an_abort_and_a_refused_prompt_wake_a_batch():
    """Everything that frees capacity does."""
    room, wake = room_of(1, 10), Waker()
    come(room, "a").generation.abort()
    submit(room, wake, alone=False)
    room.sweep(0.0)
    assert wake.calls == 1
    room.admit("b")
    submit(room, wake, alone=False)
    room.give_up("b")
    assert wake.calls == 2


@pytest.mark.parametrize("end_of_all", ["clear", "close"])
def test_a_dead_or_closed_engine_wakes_every_batch(end_of_all):
    """No batch waits for an end that cannot come any more."""
    room, wakes = room_of(1, 10), [Waker() for _ in range(3)]
    come(room, "a")
    for wake in wakes:
        submit(room, wake, alone=False)
    getattr(room, end_of_all)()
    assert [wake.calls for wake in wakes] == [1, 1, 1]


def test_a_closed_room_refuses_a_batch():
    """With NotReady, as it refuses every request."""
    room = room_of(1, 10)
    room.close()
    with pytest.raises(NotReady):
        submit(room, Waker(), alone=True)


def test_a_text_too_long_for_the_queue_is_tried_again_when_prompts_have_left_it():
    """Giving up its own capacity does not wake it; it is woken at once if the queue has emptied meanwhile."""
    room, wake = room_of(2, 10, max_tokens=100), Waker()
    come(room, "a", tokens=90)
    assert room.admit_when_free("a", True, wake)
    with pytest.raises(Overloaded):
        room.put(sequence("a", tokens=50, batch=True), of_batch=True)
    room.give_up_for_now("a", True, wake)
    assert (room.num_in_flight(), wake.calls) == (1, 0)
    end(room)
    assert wake.calls == 1
    assert room.admit_when_free("a", True, wake)
    room.give_up_for_now("a", True, wake)
    assert wake.calls == 2
    assert room.check([]) is None


NAMES = ("first", "second", "third", "fourth")


class Simulation:
    """Four batches and interactive clients around a room, one action at a time; every wake is followed."""

    def __init__(self, slots, waiting):
        self.room, self.slots = room_of(slots, waiting), slots
        self.todo = dict.fromkeys(NAMES, 4)
        self.wakes = {name: Waker() for name in self.todo}
        self.followed = dict.fromkeys(self.todo, 0)
        self.running = []

    def in_flight(self, name):
        return sum(made.request.client == name for made in (*self.running, *self.room._queue))

    def submit(self, name):
        while self.todo[name]:
            alone = not self.in_flight(name)
            total = self.room.num_in_flight()
            made = submit(self.room, self.wakes[name], alone, name)
            if made is None:
                assert total >= self.slots
                return
            assert alone or total < self.slots
            self.todo[name] -= 1
        self.room.stop_waiting(self.wakes[name])

    def interactive(self, client):
        try:
            come(self.room, client)
        except Overloaded:
            assert not self.room._in_flight.slot_free

    def start(self, _):
        if len(self.running) < self.slots and (made := self.room.take(NO_SLOTS)) is not None:
            made.started_at = 0.0
            self.running.append(made)

    def end(self, _):
        if self.running:
            ended = self.running.pop(0)
            self.room.release(ended.request.client)
            if ended.request.client in self.todo:
                self.submit(ended.request.client)

    def follow(self):
        for name, wake in self.wakes.items():
            while self.followed[name] < wake.calls:
                self.followed[name] += 1
                self.submit(name)


actions = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(NAMES)),
    st.tuples(st.just("interactive"), st.sampled_from("ab")),
    st.tuples(st.sampled_from(("start", "end")), st.none()),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4), st.integers(0, 4), st.lists(actions, max_size=40))
def test_no_batch_is_forgotten(slots, waiting, steps):
    """Whatever happens, a batch that follows its wakes has submitted all its requests once all sequences have ended."""
    world = Simulation(slots, waiting)
    for name in world.todo:
        world.submit(name)
    for action, detail in steps:
        getattr(world, action)(detail)
        world.follow()
        assert world.room.check(world.running) is None
    for _ in range(200):
        world.start(None)
        world.end(None)
        world.follow()
    assert world.todo == dict.fromkeys(NAMES, 0)
    assert world.room.num_in_flight() == 0


def batch_of(room, name, texts, ended):
    """Act as a batch's thread: submit while there is capacity, read the ends, react to the wakes."""
    mailbox, todo, waits = Mailbox(), deque(range(texts)), False
    while todo or len(mailbox):
        while todo and (made := submit(room, mailbox.wake, alone=not len(mailbox), client=name)):
            mailbox.add(todo.popleft(), made.generation, streaming=False)
        if waits and not todo:
            room.stop_waiting(mailbox.wake)
        waits = bool(todo)
        if mailbox.wait(PATIENCE) is not None:
            ended[name] += 1


@pytest.mark.parametrize("round_", range(3))
def test_many_batches_and_clients_in_threads_conserve_capacity(round_):
    """Eight batches and four clients beside an engine: every text ends, and nothing is left in flight."""
    room, done, most, ended = WaitingRoom(12, 10_000, slots=4), threading.Event(), [0], Counter()

    def client(name):
        for _ in range(60):
            with suppress(Overloaded):
                come(room, name)

    def engine():
        while not done.is_set() or len(room):
            most[0] = max(most[0], room.num_in_flight())
            if (made := room.take(NO_SLOTS)) is not None:
                room.release(made.request.client)
                made.generation.fail(ModelError("ended"))

    batches = [f"batch-{number}" for number in range(8)]
    threads = [threading.Thread(target=batch_of, args=(room, name, 25, ended)) for name in batches]
    threads += [threading.Thread(target=client, args=(name,)) for name in "abcd"]
    worker = threading.Thread(target=engine)
    for thread in (*threads, worker):
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    done.set()
    worker.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert ended == dict.fromkeys(batches, 25)
    assert (room.num_in_flight(), room.check([])) == (0, None)
    assert most[0] <= 12
