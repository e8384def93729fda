"""Who may come in, and who is next: bounded, and fair between clients. The one place that HTTP threads share with the
engine's thread; no torch here.

A place is taken by `admit`, before any work for the request, and given back by `release`, when it has ended; running
and waiting requests both hold one. The order is deficit round robin over clients (Shreedhar and Varghese, SIGCOMM
1995) counted in tokens, in two priorities; every eighth start belongs to the lower one if it waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from engine.errors import DeadlineExceeded, Overloaded, RequestAborted, ServiceError
from engine.sequence import Sequence
from engine.types import Priority

QUANTUM = 256  # tokens a client may start in each round
BATCH_EVERY = 8  # starts, of which one is left to the lower priority
LONGEST_RETRY_AFTER = 60  # seconds
RATE_MEMORY = 0.9  # weight of the past in the mean time between two ends


class _Queue:
    """Deficit round robin over the clients of one priority."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Sequence]] = OrderedDict()
        self._deficit: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(line) for line in self._clients.values())

    def put(self, sequence: Sequence, front: bool = False) -> None:
        line = self._clients.setdefault(sequence.request.client, deque())
        self._deficit.setdefault(sequence.request.client, 0)
        (line.appendleft if front else line.append)(sequence)

    def peek(self) -> Sequence | None:
        """Return the next to start; turns the round until one client can pay for its first."""
        while self._clients:
            client, line = next(iter(self._clients.items()))
            if self._deficit[client] >= line[0].cost:
                return line[0]
            self._deficit[client] += QUANTUM
            self._clients.move_to_end(client)
        return None

    def take(self) -> Sequence:
        sequence = self.peek()
        assert sequence is not None
        self._deficit[sequence.request.client] -= sequence.cost
        self.remove(sequence)
        return sequence

    def remove(self, sequence: Sequence) -> None:
        client = sequence.request.client
        self._clients[client].remove(sequence)
        if not self._clients[client]:
            del self._clients[client], self._deficit[client]

    def newest(self, client: str) -> Sequence | None:
        line = self._clients.get(client)
        return line[-1] if line else None

    def all(self) -> list[Sequence]:
        return [sequence for line in self._clients.values() for sequence in line]


class WaitingRoom:
    """Places for `capacity` requests, waiting ones holding at most `max_tokens` tokens of prompts together."""

    def __init__(self, capacity: int, max_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity, self._max_tokens, self._clock = capacity, max_tokens, clock
        self._lock = threading.Lock()  # guards everything below
        self._queues = {priority: _Queue() for priority in Priority}
        self._places: Counter[str] = Counter()
        self._waiting_tokens = 0
        self._starts = 0
        self._last_end: float | None = None
        self._between_ends: float | None = None

    # --- any thread ---

    def admit(self, client: str) -> None:
        """Take a place. Raises Overloaded at once where there is none.

        When every place is taken, a client that holds fewer than the greediest gets that one's newest waiting place.
        """
        with self._lock:
            if self._places.total() >= self._capacity and not self._make_room(client):
                raise Overloaded("The service is busy; try again later.", self._retry_after())
            self._places[client] += 1

    def put(self, sequence: Sequence) -> None:
        """Queue an admitted sequence. Raises Overloaded where the waiting prompts would hold too many tokens."""
        with self._lock:
            waiting = self._waiting_tokens + sequence.num_prompt
            if self._waiting_tokens and waiting > self._max_tokens:
                raise Overloaded("Too much text is waiting already; try again later.", self._retry_after())
            self._waiting_tokens = waiting
            self._queues[sequence.request.priority].put(sequence)

    def release(self, client: str) -> None:
        """Give a place back."""
        with self._lock:
            self._release(client)

    def num_places(self) -> int:
        """Return how many requests are in: preparing, waiting and running."""
        with self._lock:
            return self._places.total()

    def estimated_wait(self) -> float:
        """Return about how many seconds pass until a place is free, from the measured rate."""
        with self._lock:
            return self._between_ends or 0.0

    # --- the engine's thread ---

    def __len__(self) -> int:
        with self._lock:
            return sum(len(queue) for queue in self._queues.values())

    def peek(self) -> Sequence | None:
        """Return the sequence that `take` would give."""
        with self._lock:
            queue = self._next_queue()
            return None if queue is None else queue.peek()

    def take(self) -> Sequence | None:
        """Take the next sequence out of the queue, None where nobody waits; it keeps its place."""
        with self._lock:
            if (queue := self._next_queue()) is None:
                return None
            self._starts += 1
            sequence = queue.take()
            self._waiting_tokens -= sequence.num_prompt
            return sequence

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence again, first of its client's."""
        with self._lock:
            self._waiting_tokens += sequence.num_prompt
            self._queues[sequence.request.priority].put(sequence, front=True)

    def sweep(self, now: float) -> list[tuple[Sequence, ServiceError]]:
        """Remove the waiting sequences that were aborted or have waited too long, each with its error."""
        with self._lock:
            ended = []
            for queue in self._queues.values():
                for sequence in queue.all():
                    if (error := _reason_to_end(sequence, now)) is not None:
                        self._remove(queue, sequence)
                        ended.append((sequence, error))
            return ended

    def clear(self) -> list[Sequence]:
        """Remove and return every waiting sequence."""
        with self._lock:
            everybody = []
            for queue in self._queues.values():
                for sequence in queue.all():
                    self._remove(queue, sequence)
                    everybody.append(sequence)
            return everybody

    # --- with the lock held ---

    def _next_queue(self) -> _Queue | None:
        people, batch = self._queues[Priority.INTERACTIVE], self._queues[Priority.BATCH]
        if len(batch) and (not len(people) or self._starts % BATCH_EVERY == BATCH_EVERY - 1):
            return batch
        return people if len(people) else None

    def _make_room(self, client: str) -> bool:
        for greedy, places in self._places.most_common():
            if places <= self._places[client] + 1:
                return False
            for priority in reversed(Priority):
                victim = self._queues[priority].newest(greedy)
                if victim is not None and victim.started_at is None:
                    self._remove(self._queues[priority], victim)
                    self._release(greedy)
                    victim.generation.fail(Overloaded("Other clients came first; try again.", self._retry_after()))
                    return True
        return False

    def _remove(self, queue: _Queue, sequence: Sequence) -> None:
        queue.remove(sequence)
        self._waiting_tokens -= sequence.num_prompt

    def _release(self, client: str) -> None:
        self._places[client] -= 1
        if self._places[client] <= 0:
            del self._places[client]
        now = self._clock()
        if self._last_end is not None:
            gap = now - self._last_end
            past = gap if self._between_ends is None else self._between_ends
            self._between_ends = RATE_MEMORY * past + (1 - RATE_MEMORY) * gap
        self._last_end = now

    def _retry_after(self) -> int:
        return min(LONGEST_RETRY_AFTER, max(1, math.ceil(self._between_ends or 1.0)))


def _reason_to_end(sequence: Sequence, now: float) -> ServiceError | None:
    if sequence.generation.aborted:
        return RequestAborted("The request was stopped before it finished.")
    limit = sequence.queue_deadline if sequence.started_at is None else sequence.deadline
    if now >= limit:
        return DeadlineExceeded("The request waited too long for its turn.")
    return None
