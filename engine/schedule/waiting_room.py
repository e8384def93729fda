"""Who may come in, and who is next: bounded, and fair between clients. The one place that HTTP threads share with the
engine's thread; no torch here.

A place is taken by `admit`, before any work for the request, and given back when it has ended: preparing, waiting and
running requests all hold one. Of two priorities the lower one gets every eighth start while it waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from engine.errors import NotReady, Overloaded, ServiceError
from engine.schedule.fair_queue import FairQueue
from engine.schedule.sequence import Sequence
from engine.types import GenerationRequest, Priority, QueuePosition

BATCH_EVERY = 8  # starts, of which one is left to the lower priority
LONGEST_RETRY_AFTER = 60  # seconds
RETRY_WHEN_CLOSED = 5  # seconds
ORDER_LASTS = 0.5  # seconds for which a computed order is told, so that many may ask for their places
RATE_MEMORY = 0.9  # weight of the past in the mean time between two ends

Held = Mapping[Priority, Mapping[str, int]]


class WaitingRoom:
    """Places for `capacity` requests, waiting ones holding at most `max_tokens` tokens of prompts together."""

    def __init__(self, capacity: int, max_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._max_tokens, self._clock = capacity, max_tokens, clock
        self._changed = threading.Condition()  # guards everything below but the mark of `disturb`
        self._queues = {priority: FairQueue() for priority in Priority}
        self._in_flight: Counter[str] = Counter()
        self._preparing: Counter[str] = Counter()  # of these places, those whose request is not queued yet
        self._waiting_tokens = 0
        self._starts = 0
        self._closed = False
        self._next_deadline = math.inf
        self._last_end = 0.0
        self._between_ends: float | None = None
        self._abort_pending = False
        self._held: Held = {}  # the engine's own counts, as last seen; only read here
        self._before: dict[int, int] = {}  # how many start before a waiting request, by its id()
        self._order_until = 0.0

    # --- any thread ---

    def admit(self, client: str) -> None:
        """Take a place. Raises Overloaded at once where there is none, NotReady where the room is closed.

        When every place is taken, a client that holds fewer than the greediest gets that one's newest waiting place.
        """
        with self._changed:
            self._check_open()
            if self._in_flight.total() >= self._capacity:
                victim = self._victim(self._in_flight, self._in_flight[client] + 1)
                if victim is None:
                    raise Overloaded("The service is busy; try again later.", self._retry_after())
                self._evict(victim)
            if not self._in_flight:
                self._last_end = self._clock()  # idle time says nothing about the rate
            self._in_flight[client] += 1
            self._preparing[client] += 1

    def give_up(self, client: str) -> None:
        """Give back the place of a request that was refused while it was prepared."""
        with self._changed:
            _take_one(self._preparing, client)
            self._free(client)

    def put(self, sequence: Sequence) -> None:
        """Queue an admitted sequence. Raises Overloaded where the waiting prompts would hold too many tokens.

        Then, too, a client that holds more tokens gives way. NotReady: the room was closed meanwhile.
        """
        with self._changed:
            self._check_open()
            if not self._make_token_room(sequence):
                raise Overloaded("Too much text is waiting already; try again later.", self._retry_after())
            _take_one(self._preparing, sequence.request.client)
            self._insert(sequence)

    def notify_abort(self) -> None:
        """Leave word that a sequence may have been aborted; takes no lock, so it may be called with any held."""
        self._abort_pending = True

    def num_in_flight(self) -> int:
        """Return how many requests are in: preparing, waiting and running."""
        with self._changed:
            return self._in_flight.total()

    def estimated_wait(self) -> float:
        """Return about how many seconds those who wait now will take to start, from the measured rate of ends."""
        with self._changed:
            return self._wait()

    def queue_position(self, request: GenerationRequest) -> QueuePosition | None:
        """Return where a request stands, None if it does not wait; true to the order of ORDER_LASTS seconds ago."""
        with self._changed:
            now = self._clock()
            if now >= self._order_until:
                self._before = {id(sequence.request): number for number, sequence in enumerate(self._order())}
                self._order_until = now + ORDER_LASTS
            before = self._before.get(id(request))
            return None if before is None else QueuePosition(before, (before + 1) * (self._between_ends or 0.0))

    def wait_until_empty(self, timeout: float) -> None:
        """Wait until nobody holds a place, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, timeout)

    def close(self) -> None:
        """Let nobody in any more, not even those who are being prepared."""
        with self._changed:
            self._closed = True

    # --- the engine's thread ---

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def peek(self, held: Held) -> Sequence | None:
        """Return the sequence that `take` would give."""
        with self._changed:
            self._held = held
            priority = self._next_priority()
            return None if priority is None else self._queues[priority].peek(held[priority])

    def take(self, held: Held) -> Sequence | None:
        """Take the next sequence out of the queue, None where nobody waits; it keeps its place.

        held: how many slots each client has, by priority.
        """
        with self._changed:
            self._held = held
            if (priority := self._next_priority()) is None:
                return None
            self._starts += 1
            sequence = self._queues[priority].take(held[priority])
            self._forget(sequence)
            return sequence

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence again, first of its client's."""
        with self._changed:
            self._insert(sequence, front=True)

    def release(self, client: str) -> None:
        """Give back the place of a sequence that ran; the time between two such ends is the measured rate."""
        with self._changed:
            now = self._clock()
            gap, past = now - self._last_end, self._between_ends
            self._between_ends = gap if past is None else RATE_MEMORY * past + (1 - RATE_MEMORY) * gap
            self._last_end = now
            self._free(client)

    def sweep(self, now: float) -> list[tuple[Sequence, ServiceError]]:
        """Remove the waiting sequences that were aborted or have waited too long, with their places and errors."""
        if not self._abort_pending and now < self._next_deadline:
            return []
        with self._changed:
            self._abort_pending = False
            reasons = [(sequence, sequence.reason_to_end(now)) for sequence in self._waiting()]
            ended = [(sequence, error) for sequence, error in reasons if error is not None]
            for sequence, _ in ended:
                self._remove(sequence)
                self._free(sequence.request.client)
            self._next_deadline = min((sequence.waits_until for sequence in self._waiting()), default=math.inf)
            return ended

    def clear(self) -> list[Sequence]:
        """Remove and return every waiting sequence; only the places of those being prepared stay taken."""
        with self._changed:
            waiting = self._waiting()
            self._queues = {priority: FairQueue() for priority in Priority}
            self._in_flight, self._waiting_tokens = Counter(self._preparing), 0
            self._before.clear()
            self._changed.notify_all()
            return waiting

    def check(self, running: Iterable[Sequence]) -> str | None:
        """Return what is wrong with the books, None if each place is held by one request, given those that run."""
        with self._changed:
            holders = self._preparing + Counter(s.request.client for s in (*self._waiting(), *running))
            if holders != self._in_flight:
                return f"{self._in_flight.total()} places are held by {holders.total()} requests"
            tokens = sum(sequence.num_prompt for sequence in self._waiting())
            return None if tokens == self._waiting_tokens else f"{self._waiting_tokens} tokens wait, in truth {tokens}"

    # --- with the lock held ---

    def _check_open(self) -> None:
        if self._closed:
            raise NotReady("The model has stopped; try again later.", RETRY_WHEN_CLOSED)

    def _next_priority(self) -> Priority | None:
        people, batch = len(self._queues[Priority.INTERACTIVE]), len(self._queues[Priority.BATCH])
        if _is_for_batch(self._starts, bool(people), bool(batch)):
            return Priority.BATCH
        return Priority.INTERACTIVE if people else None

    def _order(self) -> Iterator[Sequence]:
        """Yield everybody who waits in the order in which they start, by the slots that clients hold now."""
        order = {priority: deque(queue.order(self._held.get(priority, {}))) for priority, queue in self._queues.items()}
        people, batch, starts = order[Priority.INTERACTIVE], order[Priority.BATCH], self._starts
        while people or batch:
            yield (batch if _is_for_batch(starts, bool(people), bool(batch)) else people).popleft()
            starts += 1

    def _waiting(self) -> list[Sequence]:
        return [sequence for queue in self._queues.values() for sequence in queue]

    def _victim(self, held: Counter[str], bound: int) -> Sequence | None:
        """Return the newest waiting sequence of the client that holds most, if that is more than `bound`."""
        for greedy, amount in held.most_common():
            if amount <= bound:
                return None
            for priority in reversed(Priority):
                newest = self._queues[priority].newest(greedy)
                if newest is not None and newest.started_at is None:
                    return newest
        return None

    def _make_token_room(self, sequence: Sequence) -> bool:
        while self._waiting_tokens and self._waiting_tokens + sequence.num_prompt > self._max_tokens:
            held: Counter[str] = Counter()
            for waiting in self._waiting():
                held[waiting.request.client] += waiting.num_prompt
            victim = self._victim(held, held[sequence.request.client] + sequence.num_prompt)
            if victim is None:
                return False
            self._evict(victim)
        return True

    def _evict(self, victim: Sequence) -> None:
        self._remove(victim)
        self._free(victim.request.client)
        victim.generation.fail(Overloaded("Other clients came first; try again later.", self._retry_after()))

    def _insert(self, sequence: Sequence, front: bool = False) -> None:
        self._queues[sequence.request.priority].put(sequence, front)
        self._waiting_tokens += sequence.num_prompt
        self._next_deadline = min(self._next_deadline, sequence.waits_until)

    def _remove(self, sequence: Sequence) -> None:
        self._queues[sequence.request.priority].remove(sequence)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        """Let a sequence that left its queue count no more; its request's id() may soon be another's."""
        self._waiting_tokens -= sequence.num_prompt
        self._before.pop(id(sequence.request), None)

    def _free(self, client: str) -> None:
        _take_one(self._in_flight, client)
        if not self._in_flight:
            self._changed.notify_all()

    def _wait(self) -> float:
        return (self._between_ends or 0.0) * len(self)

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY_AFTER, max(1, math.ceil(self._wait())))


def _is_for_batch(starts: int, people: bool, batch: bool) -> bool:
    """Return whether the start after so many others is one for the lower priority, given who waits."""
    return batch and (not people or starts % BATCH_EVERY == BATCH_EVERY - 1)


def _take_one(counts: Counter[str], client: str) -> None:
    counts[client] -= 1
    if counts[client] <= 0:
        del counts[client]
