"""The waiting sequences of all priorities, and which of them starts next.

The highest priority starts first, but whatever waits above them, every INTERACTIVE_EVERY-th start is an interactive one
and every BATCH_EVERY-th one of a batch, unless batches hold as large a part of the slots already: what would start then
takes no slot from another one, and all behind it would wait for an end. Their turn comes later then. What becomes free
is for the one whose turn it is; those behind it get what is given up for them (`scheduler`). No lock here: the waiting
room holds its own around every call but `len()`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from engine.schedule.fair_queue import FairQueue
from engine.schedule.sequence import Sequence
from engine.types import Priority

INTERACTIVE_EVERY = 4
BATCH_EVERY = 8

Held = Mapping[Priority, Mapping[str, int]]  # how many slots each client has, by priority


class PriorityQueues:
    """One fair queue for each priority. tokens: of all waiting prompts together."""

    def __init__(self) -> None:
        self._queues = {priority: FairQueue() for priority in Priority}
        self._starts = _Starts()
        self.tokens = 0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for queue in self._queues.values() for sequence in queue)

    def put(self, sequence: Sequence, front: bool = False) -> None:
        """Add a sequence at the end, or the front, of its client's line."""
        self._queues[sequence.request.priority].put(sequence, front)
        self.tokens += sequence.num_prompt

    def heads(self, held: Held) -> list[Sequence]:
        """Return the next sequence of each priority that has any, the one whose turn it is first."""
        preferred = self._starts.preferred(_slots(held))
        return [self._queues[one].peek(held.get(one, {})) for one in preferred if self._queues[one]]

    def take(self, head: Sequence, held: Held, in_turn: bool) -> None:
        """Remove one of `heads`, which starts. in_turn: it is the first, or that one's turn is yet to come."""
        priority = head.request.priority
        if in_turn:
            self._starts.count(priority)
        taken = self._queues[priority].take(held.get(priority, {}))
        assert taken is head
        self.tokens -= head.num_prompt

    def remove(self, sequence: Sequence) -> None:
        """Remove a sequence, wherever it is."""
        self._queues[sequence.request.priority].remove(sequence)
        self.tokens -= sequence.num_prompt

    def charge(self, sequence: Sequence) -> None:
        """Count what a sequence that has ended generated beyond its cost."""
        if sequence.uncounted:
            self._queues[sequence.request.priority].charge(sequence.request.client, sequence.uncounted)

    def order(self, held: Held) -> Iterator[Sequence]:
        """Yield all sequences in the order in which they start if no others come and each keeps its slot."""
        orders = {priority: deque(queue.order(held.get(priority, {}))) for priority, queue in self._queues.items()}
        starts, slots = replace(self._starts), _slots(held)
        while any(orders.values()):
            priority = next(one for one in starts.preferred(slots) if orders[one])
            yield orders[priority].popleft()
            starts.count(priority)
            slots[priority] += 1

    def num_waiting(self, client: str) -> int:
        """Return how many sequences of a client wait."""
        return sum(len(queue.line(client)) for queue in self._queues.values())

    def num_of(self, priority: Priority) -> int:
        """Return how many sequences of a priority wait."""
        return len(self._queues[priority])

    def tokens_of(self, priority: Priority) -> int:
        """Return how many tokens the waiting prompts of a priority hold."""
        return sum(sequence.num_prompt for sequence in self._queues[priority])

    def tokens_waiting(self, client: str) -> int:
        """Return how many tokens the waiting prompts of a client hold."""
        return sum(sequence.num_prompt for queue in self._queues.values() for sequence in queue.line(client))

    def clear(self) -> list[Sequence]:
        """Remove and return all sequences."""
        removed = list(self)
        for sequence in removed:
            self.remove(sequence)
        return removed


@dataclass(slots=True)
class _Starts:
    """How many there were, and how many since the last one of a batch."""

    total: int = 0
    since_batch: int = 0

    def count(self, priority: Priority) -> None:
        """Count a start."""
        self.total += 1
        self.since_batch = 0 if priority is Priority.BATCH else self.since_batch + 1

    def preferred(self, slots: Mapping[Priority, int]) -> tuple[Priority, ...]:
        """Return the priorities in the order in which they are considered for the next start. slots: that each holds.

        The part of the slots that is a batch's is the one that the scheduler leaves to them.
        """
        share = max(1, sum(slots.values()) // BATCH_EVERY)
        if self.since_batch < BATCH_EVERY - 1 or slots[Priority.BATCH] >= share:
            order = [Priority.HIGH, Priority.INTERACTIVE, Priority.BATCH]
        else:
            order = [Priority.BATCH, Priority.HIGH, Priority.INTERACTIVE]
        if self.total % INTERACTIVE_EVERY == 1:
            order.sort(key=lambda priority: priority is not Priority.INTERACTIVE)
        return tuple(order)


def _slots(held: Held) -> dict[Priority, int]:
    return {priority: sum(held.get(priority, {}).values()) for priority in Priority}
