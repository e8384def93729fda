"""Admission and the queue: bounded, and fair between clients. What HTTP threads share with the engine's thread.

A request is in flight from `admit`, before any work is done for it, until `release`, `sweep` or `give_up`.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from engine.backend import Generation
from engine.errors import NotReady, Overloaded, ServiceError
from engine.schedule.in_flight import InFlight, Wake
from engine.schedule.priority_queues import Held, PriorityQueues
from engine.schedule.sequence import Sequence
from engine.types import GenerationRequest, QueuePosition

LONGEST_RETRY_AFTER = 60  # seconds
ORDER_LASTS = 0.5  # seconds for which a computed order is reported, so that many may ask for their positions


class WaitingRoom:
    """At most `capacity` requests in flight, the waiting ones holding at most `max_tokens` prompt tokens together.

    slots: a batch submits while fewer requests than these are in flight, and always if it has none.
    """

    def __init__(
        self, capacity: int, max_tokens: int, clock: Callable[[], float] = time.monotonic, slots: int = 0
    ) -> None:
        self._max_tokens, self._clock = max_tokens, clock
        self._changed = threading.Condition()  # guards everything below but `_abort_pending`
        self._queue = PriorityQueues()
        self._in_flight = InFlight(capacity, slots, clock)
        self._closed = False
        self._next_deadline = math.inf
        self._abort_pending = False
        self._held: Held = {}  # the engine's own counts, as last seen; only read here
        self._before: dict[int, int] = {}  # how many start before a waiting request, by its id()
        self._order_until = 0.0
        # No client with more requests than this has one that can be evicted, as long as none enters and none is queued.
        self._spared_above = math.inf

    # --- any thread ---

    def admit(self, client: str) -> None:
        """Admit a request. Raises Overloaded at capacity, NotReady where the room is closed; never waits.

        At capacity, a client with fewer requests than the one with most evicts the newest one of it that is not
        committed.
        """
        with self._changed:
            self._check_open()
            if not self._make_room(client):
                raise self._busy()
            self._enter(client)

    def would_refuse(self, client: str) -> Overloaded | None:
        """Return what `admit` would refuse this client with at this moment, None if it would admit it; evicts nobody.

        Takes no lock while there is room.
        """
        if not self._in_flight.full:
            return None
        with self._changed:
            if not self._in_flight.full or self._victim_for(client) is not None:
                return None
            return self._busy()

    def admit_when_free(self, client: str, alone: bool, wake: Wake) -> bool:
        """Admit a request of a batch if it can run at once; return whether it was admitted.

        alone: the batch has nothing in flight, so this one may also wait in the queue. If it is not admitted, `wake` is
        called once, with this room's lock held, when it is worth trying again. Raises NotReady if the room is closed.
        """
        with self._changed:
            self._check_open()
            if self._in_flight.total < self._in_flight.slots or (alone and self._make_room(client)):
                self._in_flight.forget(wake)
                self._enter(client)
                return True
            self._in_flight.expect(wake, alone)
            return False

    def give_up(self, client: str) -> None:
        """Give the capacity of a request back that was refused during its preparation."""
        with self._changed:
            self._in_flight.prepared(client)
            self._leave(client)

    def give_up_for_now(self, client: str, alone: bool, wake: Wake) -> None:
        """Give the capacity of a batch's request back that `put` refused; wake the batch once prompts have started."""
        with self._changed:
            self._in_flight.prepared(client)
            self._leave(client)
            if self._queue.tokens:
                self._in_flight.expect(wake, alone)
            else:
                wake()

    def stop_waiting(self, wake: Wake) -> None:
        """Forget a batch that submits nothing more; if it was woken already, wake another instead."""
        with self._changed:
            if not self._in_flight.forget(wake):
                self._in_flight.wake_batch()

    def put(self, sequence: Sequence) -> None:
        """Queue an admitted sequence. Raises Overloaded if the waiting prompts would hold too many tokens.

        Before that, sequences of a client that holds more tokens are evicted. Raises NotReady if the room was closed
        meanwhile.
        """
        with self._changed:
            self._check_open()
            if not self._make_token_room(sequence):
                raise Overloaded("Too much text is waiting already; try again later.", self._retry_after())
            self._in_flight.prepared(sequence.request.client)
            self._insert(sequence)

    def commit_early(self, generation: Generation) -> bool:
        """Commit an answer that waits, while at most half of the capacity is in flight; return whether it was.

        The rest of the waiting ones can be evicted, so that no client holds every place by streams that are open.
        """
        with self._changed:
            if generation.done or self._in_flight.total > self._in_flight.capacity // 2:
                return False
            generation.commit()
            return True

    def notify_abort(self) -> None:
        """Note that a sequence may have been aborted. Takes no lock, so it may be called with any held."""
        self._abort_pending = True

    def num_in_flight(self) -> int:
        """Return how many requests are being prepared, waiting and running."""
        with self._changed:
            return self._in_flight.total

    def estimated_wait(self) -> float:
        """Return the estimated seconds until all waiting requests have started, by the measured rate of ends."""
        with self._changed:
            return self._wait()

    def queue_position(self, request: GenerationRequest) -> QueuePosition | None:
        """Return where a request waits, None if it does not; by an order computed at most ORDER_LASTS seconds ago."""
        with self._changed:
            now = self._clock()
            if now >= self._order_until:
                self._before = {
                    id(sequence.request): number for number, sequence in enumerate(self._queue.order(self._held))
                }
                self._order_until = now + ORDER_LASTS
            before = self._before.get(id(request))
            between_ends = self._in_flight.between_ends or 0.0
            return None if before is None else QueuePosition(before, (before + 1) * between_ends)

    def wait_until_empty(self, timeout: float) -> None:
        """Wait until no request is in flight, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight.total, timeout)

    def close(self) -> None:
        """Refuse all requests from now on, also those that are being prepared."""
        with self._changed:
            self._closed = True
            self._in_flight.wake_batches()

    # --- the engine's thread ---

    def __len__(self) -> int:
        return len(self._queue)

    def peek(self, held: Held) -> Sequence | None:
        """Return the sequence that `take` would return."""
        with self._changed:
            self._held = held
            return self._queue.peek(held)

    def take(self, held: Held, fits: Callable[[Sequence], bool] = lambda sequence: True) -> Sequence | None:
        """Take the next sequence out of the queue, None if none waits or it does not fit; it stays in flight.

        held: how many slots each client has, by priority; fits: called with this room's lock held.
        """
        with self._changed:
            self._held = held
            following = self._queue.peek(held)
            if following is None or not fits(following):
                return None
            sequence = self._queue.take(held)
            assert sequence is following
            self._before.pop(id(sequence.request), None)
            sequence.generation.commit()
            return sequence

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence again, first of its client's."""
        with self._changed:
            self._insert(sequence, front=True)

    def release(self, client: str, ended: Sequence | None = None) -> None:
        """Give the capacity of a sequence back that ran; the time between two such ends is the measured rate.

        ended: the sequence, to count what it generated beyond its cost.
        """
        with self._changed:
            self._in_flight.ended()
            if ended is not None:
                self._queue.charge(ended)
            self._leave(client)

    def sweep(self, now: float) -> list[tuple[Sequence, ServiceError]]:
        """Remove the waiting sequences that were aborted or have waited too long; return them with their errors."""
        if not self._abort_pending and now < self._next_deadline:
            return []
        with self._changed:
            self._abort_pending = False
            reasons = [(sequence, sequence.reason_to_end(now)) for sequence in self._queue]
            ended = [(sequence, error) for sequence, error in reasons if error is not None]
            for sequence, _ in ended:
                self._remove(sequence)
                self._leave(sequence.request.client)
            self._next_deadline = min((sequence.waits_until for sequence in self._queue), default=math.inf)
            return ended

    def clear(self) -> list[Sequence]:
        """Remove and return every waiting sequence; only requests that are being prepared stay in flight."""
        with self._changed:
            self._in_flight.clear()
            self._before.clear()
            self._changed.notify_all()
            return self._queue.clear()

    def check(self, running: Iterable[Sequence]) -> str | None:
        """Return what is wrong with the accounting, None if it matches the sequences that wait and run."""
        with self._changed:
            counted = self._in_flight
            holders = counted.preparing + Counter(s.request.client for s in (*self._queue, *running))
            if holders != counted.by_client:
                return f"{counted.total} requests are counted in flight, and {holders.total()} are"
            tokens = sum(sequence.num_prompt for sequence in self._queue)
            if tokens != self._queue.tokens:
                return f"{self._queue.tokens} tokens are counted as waiting, and {tokens} are"
            return None

    # --- with the lock held ---

    def _check_open(self) -> None:
        if self._closed:
            raise NotReady("The model has stopped; try again later.")

    def _make_room(self, client: str) -> bool:
        """Return whether a client's next request can be admitted; evicts a request of a greedier client if need be."""
        if not self._in_flight.full:
            return True
        victim = self._victim_for(client)
        if victim is not None:
            self._evict(victim)
        return victim is not None

    def _busy(self) -> Overloaded:
        return Overloaded("The service is busy; try again later.", self._retry_after())

    def _victim_for(self, client: str) -> Sequence | None:
        """Return the waiting sequence that a client's next request may evict.

        That there is none is kept, since a flood asks again and again, and many clients may have to be looked at.
        """
        bound = self._in_flight.by_client[client] + 1
        if bound >= self._spared_above:
            return None
        victim = self._victim(self._in_flight.by_client, bound)
        if victim is None:
            self._spared_above = bound
        return victim

    def _make_token_room(self, sequence: Sequence) -> bool:
        while self._queue.tokens and self._queue.tokens + sequence.num_prompt > self._max_tokens:
            held: Counter[str] = Counter()
            for waiting in self._queue:
                held[waiting.request.client] += waiting.num_prompt
            victim = self._victim(held, held[sequence.request.client] + sequence.num_prompt)
            if victim is None:
                return False
            self._evict(victim)
        return True

    def _victim(self, held: Counter[str], bound: int) -> Sequence | None:
        """Return the newest waiting sequence of the client that holds most, if that is more than `bound`."""
        if max(held.values(), default=0) <= bound:  # as it mostly is under a flood
            return None
        greedier = [(amount, client) for client, amount in held.items() if amount > bound]
        for _, greedy in sorted(greedier, key=lambda pair: pair[0], reverse=True):
            if (victim := self._queue.evictable(greedy)) is not None:
                return victim
        return None

    def _evict(self, victim: Sequence) -> None:
        self._remove(victim)
        self._leave(victim.request.client)
        victim.generation.fail(Overloaded("The service is at capacity; try again later.", self._retry_after()))

    def _enter(self, client: str) -> None:
        self._in_flight.enter(client)
        self._spared_above = math.inf

    def _insert(self, sequence: Sequence, front: bool = False) -> None:
        self._queue.put(sequence, front)
        self._spared_above = math.inf
        self._next_deadline = min(self._next_deadline, sequence.waits_until)

    def _remove(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)
        self._before.pop(id(sequence.request), None)  # another request's id() may soon be the same

    def _leave(self, client: str) -> None:
        self._in_flight.leave(client)
        if not self._in_flight.total:
            self._changed.notify_all()

    def _wait(self) -> float:
        return (self._in_flight.between_ends or 0.0) * len(self)

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY_AFTER, max(1, math.ceil(self._wait())))
