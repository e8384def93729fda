"""Admission and the queue: bounded, and fair between clients. What HTTP threads share with the engine's thread.

A request is in flight from `admit`, before any work is done for it, until `release`, `sweep` or `give_up`.

Whoever is admitted is not sent away for another's sake; a refusal comes at once. So that no client keeps the others
out, as much of the queue as a client holds has to stay free beside it (`engine.shares`). A client that has nothing in
flight may take the last place, so clients with one request each fill the queue. All batches together, of however many
clients, hold no more of it than one client may, and those of one client leave as much of that to others' as they hold:
they wait outside, and nobody is refused for them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from engine.errors import BUSY, NotReady, Overloaded, ServiceError
from engine.schedule.in_flight import InFlight, Wake
from engine.schedule.priority_queues import Held, PriorityQueues
from engine.schedule.sequence import Sequence
from engine.shares import left_of_share, within_share
from engine.types import GenerationRequest, Priority, QueuePosition

Choose = Callable[[list[Sequence]], Sequence | None]  # one of the next sequences of each priority

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
        self._changed = threading.Condition()  # guards everything below but what is said to be without
        self._queue = PriorityQueues()
        self._in_flight = InFlight(capacity, slots, clock, self._waiting_of, self._waiting_of_batches)
        self._closed = False
        self._next_deadline = math.inf
        self._abort_pending = self._abort_of_running = False  # written without the lock
        self._held: Held = {}  # the engine's own counts, as last seen; only read here
        self._before: dict[int, int] = {}  # how many start before a waiting request, by its id()
        self._order_until = 0.0

    # Called by any thread.

    def admit(self, client: str) -> None:
        """Admit a request. Raises Overloaded where there is no room for this client, NotReady where the room is closed.

        Never waits.
        """
        with self._changed:
            self._check_open()
            if not self._has_room(client):
                raise self._busy()
            self._in_flight.enter(client)

    def would_refuse(self, client: str) -> Overloaded | None:
        """Return what `admit` would refuse this client with at this moment, None if it would admit it.

        Takes no lock while there are free slots.
        """
        if self._in_flight.slot_free:
            return None
        with self._changed:
            return None if self._has_room(client) else self._busy()

    @property
    def most_of_one(self) -> int:
        """How many requests one client may have in flight where nobody else has any. Takes no lock."""
        return self._in_flight.most_of_one

    def admit_when_free(self, client: str, alone: bool, wake: Wake) -> bool:
        """Admit a request of a batch if it can run at once; return whether it was admitted.

        alone: the batch has nothing in flight, so this one may also wait in the queue. If it is not admitted, `wake` is
        called once, with this room's lock held, when it is worth trying again. Raises NotReady if the room is closed.
        """
        with self._changed:
            self._check_open()
            if self._in_flight.batch_fits(client, alone) and self._has_room(client):
                self._in_flight.forget(wake)
                self._in_flight.enter(client, of_batch=True)
                return True
            self._in_flight.expect(wake, client, alone)
            return False

    def give_up(self, client: str, of_batch: bool = False) -> None:
        """Give the capacity of a request back that was refused during its preparation."""
        with self._changed:
            self._in_flight.prepared(client, of_batch)
            self._leave(client)

    def give_up_for_now(self, client: str, alone: bool, wake: Wake) -> None:
        """Give the capacity of a batch's request back that `put` refused; wake the batch once prompts have started.

        No other batch is woken for it: each would prepare its own prompt, to be refused as well, and wake the next.
        """
        with self._changed:
            self._in_flight.prepared(client, of_batch=True)
            self._count_out(client)
            if self._queue.tokens:
                self._in_flight.expect(wake, client, alone)
            else:
                wake()

    def stop_waiting(self, wake: Wake) -> None:
        """Forget a batch that submits nothing more; if it was woken already, wake another instead."""
        with self._changed:
            if not self._in_flight.forget(wake):
                self._in_flight.wake_batch()

    def put(self, sequence: Sequence, of_batch: bool = False) -> None:
        """Queue an admitted sequence. Raises Overloaded if the waiting prompts would hold too many tokens.

        Tokens are shared as requests are. A prompt of any length may wait alone. Raises NotReady if the room was closed
        meanwhile.
        """
        with self._changed:
            self._check_open()
            if not self._has_room_for_tokens(sequence, of_batch):
                raise Overloaded("Too much text is waiting already; try again later.", self._retry_after())
            self._in_flight.prepared(sequence.request.client, of_batch)
            self._insert(sequence)

    def notify_abort(self) -> None:
        """Note that a sequence may have been aborted. Takes no lock, so it may be called with any held."""
        self._abort_pending = self._abort_of_running = True

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

    # Called by the engine's thread.

    def __len__(self) -> int:
        return len(self._queue)

    def heads(self, held: Held) -> list[Sequence]:
        """Return the next sequence of each priority that has any, the one whose turn it is first."""
        with self._changed:
            self._held = held
            return self._queue.heads(held)

    def take(self, held: Held, choose: Choose = lambda heads: heads[0]) -> Sequence | None:
        """Take one of `heads` out of the queue, None if none waits or is chosen; it stays in flight.

        held: how many slots each client has, by priority; choose: called with this room's lock held.
        """
        with self._changed:
            self._held = held
            heads = self._queue.heads(held)
            if not heads or (sequence := choose(heads)) is None:
                return None
            self._queue.take(sequence, held, in_turn=sequence is heads[0])
            self._before.pop(id(sequence.request), None)
            if sequence.request.priority is Priority.BATCH:
                self._in_flight.wake_batch()
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

    def abort_of_running(self) -> bool:
        """Return whether a sequence that runs may have been aborted since the last call."""
        if not self._abort_of_running:
            return False
        self._abort_of_running = False  # before the caller looks, so that one which comes meanwhile is not missed
        return True

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

    # Called with the lock held.

    def _check_open(self) -> None:
        if self._closed:
            raise NotReady("The model has stopped; try again later.")

    def _has_room(self, client: str) -> bool:
        """Return whether a client's next request can be admitted."""
        counted = self._in_flight
        if counted.slot_free:
            return True
        if client not in counted.by_client:
            return counted.free > 0
        return within_share(counted.waiting(client), 1, counted.free)

    def _has_room_for_tokens(self, sequence: Sequence, of_batch: bool) -> bool:
        """Return whether a client's next prompt can wait."""
        client, tokens, free = sequence.request.client, sequence.num_prompt, self._max_tokens - self._queue.tokens
        waiting = self._queue.tokens_waiting(client)
        if of_batch:
            free = left_of_share(self._queue.tokens_of(Priority.BATCH), free)
        if not waiting:
            return tokens <= free or not self._queue.tokens
        return within_share(waiting, tokens, free)

    def _waiting_of(self, client: str) -> int:
        """Return how many requests of a client wait or will."""
        return self._in_flight.preparing[client] + self._queue.num_waiting(client)

    def _waiting_of_batches(self) -> int:
        """Return how many requests of batches wait or will; those of keys of the same priority are counted too."""
        return self._in_flight.preparing_of_batches + self._queue.num_of(Priority.BATCH)

    def _busy(self) -> Overloaded:
        return Overloaded(BUSY, self._retry_after())

    def _insert(self, sequence: Sequence, front: bool = False) -> None:
        self._queue.put(sequence, front)
        self._next_deadline = min(self._next_deadline, sequence.waits_until)

    def _remove(self, sequence: Sequence) -> None:
        self._queue.remove(sequence)
        self._before.pop(id(sequence.request), None)  # another request's id() may soon be the same

    def _leave(self, client: str) -> None:
        self._count_out(client)
        self._in_flight.wake_batch()

    def _count_out(self, client: str) -> None:
        self._in_flight.leave(client)
        if not self._in_flight.total:
            self._changed.notify_all()

    def _wait(self) -> float:
        return (self._in_flight.between_ends or 0.0) * len(self)

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY_AFTER, max(1, math.ceil(self._wait())))
