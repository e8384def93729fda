"""What the next step computes, and for which sequences. No torch here; the engine's thread only.

Each step decodes one token for every sequence past its prompt, and spends the rest of the token budget on prompts, long
ones in chunks, so that decoding hardly slows down (iteration-level scheduling: Orca, OSDI 2022; chunked prefill:
Sarathi-Serve, OSDI 2024).

A step that is longer for one client's sake is longer for every other client too. So while several clients have slots,
each computes as many sequences as the median client has; those beyond it, the oldest first, may lengthen the step by a
fifth at most. A lone client, and clients that are alike, are not held back.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import ServiceError
from engine.schedule.priority_queues import BATCH_EVERY
from engine.schedule.sequence import Phase, Sequence
from engine.schedule.waiting_room import WaitingRoom
from engine.types import Priority

EXCESS_SHARE = 5  # a step may be longer by one part in so many for clients that have more than their share


@dataclass(frozen=True, slots=True)
class Plan:
    """One step. decode: sequences with one token each, by slot; prefill: sequences with their number of tokens."""

    decode: list[Sequence] = field(default_factory=list)
    prefill: list[tuple[Sequence, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.decode or self.prefill)

    @property
    def rows(self) -> list[tuple[Sequence, int]]:
        """All sequences of the step with their number of tokens, decoding ones first."""
        return [*((sequence, 1) for sequence in self.decode), *self.prefill]

    def halves(self) -> tuple[Plan, Plan]:
        """Return two plans that together compute this one: of half the sequences each, or half of the one chunk."""
        rows, chunks = len(self.decode), len(self.prefill)
        if rows + chunks == 1:
            sequence, count = self.prefill[0]
            return Plan(prefill=[(sequence, count // 2)]), Plan(prefill=[(sequence, count - count // 2)])
        middle = (rows + chunks) // 2
        first = Plan(self.decode[:middle], self.prefill[: max(0, middle - rows)])
        return first, Plan(self.decode[middle:], self.prefill[max(0, middle - rows) :])


class _Chunks:
    """Divides a step's tokens among prompts.

    A prompt that fits into a step is computed whole; a longer one takes at most `longest` tokens, so that it
    does not hold up those behind it.
    """

    def __init__(self, budget: int, longest: int) -> None:
        self._step, self._longest, self.left = budget, longest, budget

    def take(self, sequence: Sequence, at_most: int | None = None) -> int:
        """Return how many tokens of a prompt this step computes, `at_most` so many if that is given."""
        whole = sequence.remaining <= self._step
        count = min(sequence.remaining, self.left, self._step if whole else self._longest)
        count = count if at_most is None else min(count, at_most)
        self.left -= count
        return count


class Scheduler:
    """Moves sequences from the waiting room to slots and back, and plans steps of at most `max_tokens` tokens.

    overhead: the fixed cost of a step, in tokens. on_start: called with each sequence that has just got its slot; it
    may set `num_computed` (a cached prefix), and returns whether the sequence can run.
    """

    def __init__(
        self,
        room: WaitingRoom,
        max_num_seqs: int,
        max_tokens: int,
        on_start: Callable[[Sequence], bool],
        overhead: int = 0,
    ) -> None:
        self._room, self._on_start, self._overhead = room, on_start, overhead
        self._max_num_seqs, self._max_tokens = max_num_seqs, max_tokens
        self._batch_share = max(
            1, max_num_seqs // BATCH_EVERY
        )  # slots that interactive requests do not take from batches
        self._free_slots = list(range(max_num_seqs))  # a heap: low slots first keeps decode rows neighbours
        self._started = 0
        self._held: dict[Priority, Counter[str]] = {priority: Counter() for priority in Priority}  # slots of clients
        self.running: list[Sequence] = []

    def schedule(self) -> Plan:
        """Return the next step; sequences that start in it have got their slots."""
        share = self._share()
        within, beyond = self._divided(share)
        decode = [s for s in within if s.remaining == 1]
        budget = max(1, self._max_tokens - len(decode))
        readers = sum(s.remaining > 1 for s in within) + min(len(self._room), len(self._free_slots))
        chunks = _Chunks(budget, max(1, budget // 2) if readers > 1 else budget)
        prefill = [(s, chunks.take(s)) for s in within if s.remaining > 1 and chunks.left]
        beyond += self._start_new(prefill, chunks, share)
        self._add_excess(decode, prefill, beyond, chunks)
        return Plan(sorted(decode, key=lambda s: s.slot), prefill)

    def finish(self, sequence: Sequence) -> None:
        """Free the slot of a sequence that has ended."""
        self._release_slot(sequence)
        sequence.phase = Phase.FINISHED

    def ended(self, now: float) -> list[tuple[Sequence, ServiceError]]:
        """Return the running sequences that were aborted or are past their deadline, each with its error."""
        reasons = ((sequence, sequence.reason_to_end(now)) for sequence in self.running)
        return [(sequence, error) for sequence, error in reasons if error is not None]

    def sequence_to_preempt(self) -> Sequence | None:
        """Return the sequence that must give its slot to the next in the queue, None if there is none.

        Only if no slot is free. Interactive requests go before batches, which keep their share of the slots; within a
        priority, the client with the most slots gives one up only if that makes the clients more equal. The sequence is
        the one that started last.
        """
        waiting = None if self._free_slots else self._room.peek(self._held)
        if waiting is None:
            return None
        priority, client = waiting.request.priority, waiting.request.client
        if priority is Priority.INTERACTIVE and self._held[Priority.BATCH].total() > self._batch_share:
            return self._youngest(Priority.BATCH)
        richest, slots = max(self._held[priority].items(), key=lambda item: item[1], default=("", 0))
        return self._youngest(priority, richest) if slots >= self._held[priority][client] + 2 else None

    def preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to the queue; all its tokens will be computed again."""
        self._release_slot(sequence)
        sequence.phase = Phase.WAITING
        sequence.num_computed = 0
        self._room.put_back(sequence)

    def check(self) -> str | None:
        """Return what is wrong with the accounting, None if every slot is free or held by one running sequence."""
        held = [sequence.slot for sequence in self.running]
        if sorted(held + self._free_slots) != list(range(self._max_num_seqs)):
            return f"slots held {sorted(held)}, free {sorted(self._free_slots)} of {self._max_num_seqs}"
        if any(sequence.phase is not Phase.RUNNING for sequence in self.running):
            return "a sequence that is not running holds a slot"
        return None

    def _share(self) -> int | None:
        """Return how many sequences the median client runs, None while there is one client at most."""
        counts = sorted(Counter(sequence.request.client for sequence in self.running).values())
        return counts[(len(counts) - 1) // 2] if len(counts) > 1 else None

    def _divided(self, share: int | None) -> tuple[list[Sequence], list[Sequence]]:
        """Return the running sequences within their clients' share and those beyond it, both from the oldest on.

        Of one client, interactive ones come first.
        """
        if share is None:
            return list(self.running), []
        within, beyond, counts = list[Sequence](), list[Sequence](), Counter[str]()
        for sequence in sorted(self.running, key=lambda s: (s.request.priority, s.order)):
            client = sequence.request.client
            counts[client] += 1
            (within if counts[client] <= share else beyond).append(sequence)
        return within, beyond

    def _start_new(self, prefill: list[tuple[Sequence, int]], chunks: _Chunks, share: int | None) -> list[Sequence]:
        """Start waiting sequences while there are slots and tokens; return those beyond their clients' share.

        The clients with the fewest slots come first, so once one is beyond its share, the others that wait are too.
        """
        beyond = []
        while chunks.left and self._free_slots and (sequence := self._room.take(self._held)) is not None:
            self._give_slot(sequence)
            if not self._on_start(sequence):
                continue
            client = sequence.request.client
            if share is not None and sum(s.request.client == client for s in self.running) > share:
                beyond.append(sequence)
                break
            prefill.append((sequence, chunks.take(sequence)))
        return beyond

    def _add_excess(
        self,
        decode: list[Sequence],
        prefill: list[tuple[Sequence, int]],
        beyond: list[Sequence],
        chunks: _Chunks,
    ) -> None:
        """Add what is beyond its client's share, as far as that lengthens the step by no more than its part."""
        spare = (self._overhead + len(decode) + sum(count for _, count in prefill)) // EXCESS_SHARE
        for sequence in beyond:
            if min(spare, chunks.left) <= 0:
                return
            if sequence.remaining == 1:
                decode.append(sequence)
                chunks.left, count = chunks.left - 1, 1
            else:
                count = chunks.take(sequence, spare)
                prefill.append((sequence, count))
            spare -= count

    def _give_slot(self, sequence: Sequence) -> None:
        sequence.slot = heapq.heappop(self._free_slots)
        sequence.phase = Phase.RUNNING
        self._started += 1
        sequence.order = self._started
        self.running.append(sequence)
        self._held[sequence.request.priority][sequence.request.client] += 1

    def _release_slot(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = -1
        held, client = self._held[sequence.request.priority], sequence.request.client
        held[client] -= 1
        if not held[client]:
            del held[client]

    def _youngest(self, priority: Priority, client: str | None = None) -> Sequence:
        """Return the running sequence of a priority, and of a client if named, that started last."""
        rows = (s for s in self.running if s.request.priority is priority)
        return max((s for s in rows if client in (None, s.request.client)), key=lambda s: s.order)
