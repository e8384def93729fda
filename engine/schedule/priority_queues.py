"""The waiting sequences of both priorities, and which of them starts next.

While both wait, every BATCH_EVERY-th start is one of the lower priority. No lock here: the waiting room holds its own
around every call but `len()`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

from engine.schedule.fair_queue import FairQueue
from engine.schedule.sequence import Sequence
from engine.types import Priority

BATCH_EVERY = 8

Held = Mapping[Priority, Mapping[str, int]]  # how many slots each client has, by priority


class PriorityQueues:
    """One fair queue for each priority. tokens: of all waiting prompts together."""

    def __init__(self) -> None:
        self._interactive, self._batch = FairQueue(), FairQueue()
        self._queues = {Priority.INTERACTIVE: self._interactive, Priority.BATCH: self._batch}
        self._starts = 0
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def __iter__(self) -> Iterator[Sequence]:
        return (sequence for queue in self._queues.values() for sequence in queue)

    def put(self, sequence: Sequence, front: bool = False) -> None:
        """Add a sequence at the end, or the front, of its client's line."""
        self._queues[sequence.request.priority].put(sequence, front)
        self.tokens += sequence.num_prompt

    def peek(self, held: Held) -> Sequence | None:
        """Return the sequence that `take` would return."""
        priority = self._next_priority()
        return None if priority is None else self._queues[priority].peek(held[priority])

    def take(self, held: Held) -> Sequence | None:
        """Remove and return the sequence that starts next, None if none waits."""
        if (priority := self._next_priority()) is None:
            return None
        self._starts += 1
        sequence = self._queues[priority].take(held[priority])
        self.tokens -= sequence.num_prompt
        return sequence

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
        interactive = deque(self._interactive.order(held.get(Priority.INTERACTIVE, {})))
        batch, starts = deque(self._batch.order(held.get(Priority.BATCH, {}))), self._starts
        while interactive or batch:
            yield (batch if batch and (not interactive or _is_for_batch(starts)) else interactive).popleft()
            starts += 1

    def evictable(self, client: str) -> Sequence | None:
        """Return the newest sequence of a client whose answer is not committed, batches first."""
        for queue in (self._batch, self._interactive):
            if (newest := queue.newest_uncommitted(client)) is not None:
                return newest
        return None

    def clear(self) -> list[Sequence]:
        """Remove and return all sequences."""
        removed = list(self)
        for sequence in removed:
            self.remove(sequence)
        return removed

    def _next_priority(self) -> Priority | None:
        if self._batch and (not self._interactive or _is_for_batch(self._starts)):
            return Priority.BATCH
        return Priority.INTERACTIVE if self._interactive else None


def _is_for_batch(starts: int) -> bool:
    """Return whether the start after so many others is one for the lower priority."""
    return starts % BATCH_EVERY == BATCH_EVERY - 1
