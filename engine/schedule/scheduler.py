"""What the next step computes, and for which sequences. No torch here; the engine's thread only.

Each step decodes one token for every sequence past its prompt, and spends the rest of the token budget on prompts, long
ones in chunks, so that decoding hardly slows down (iteration-level scheduling: Orca, OSDI 2022; chunked prefill:
Sarathi-Serve, OSDI 2024).

A sequence runs with a slot, its row, and with blocks of the KV cache for all its tokens, and it gets another block
whenever it grows into one. Where blocks run out, running sequences give theirs up, but never the one that started
first: it can always go on to its end, so two large ones do not take turns for ever.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain, pairwise
from operator import attrgetter

from engine.errors import ServiceError
from engine.schedule.block_pool import BLOCK, BlockPool
from engine.schedule.drafts import Drafts
from engine.schedule.plan import Plan
from engine.schedule.priority_queues import BATCH_EVERY
from engine.schedule.sequence import Phase, Sequence
from engine.schedule.step_shares import StepLimits, StepShares, divided
from engine.schedule.waiting_room import WaitingRoom
from engine.types import Priority

MASK_SECONDS = 0.02  # of a step, for the masks and tokens of grammars that take long
QUICK_MASK = 0.001  # seconds of one that does not


class _Chunks:
    """Divides a step's tokens among prompts.

    A prompt that fits into a step is computed whole; a longer one takes at most `longest` tokens, so that it
    does not hold up those behind it. One whose tokens are scored takes at most half of that: each costs the logits of
    the whole vocabulary too. An image goes through the vision tower whole, with the first of its tokens. A step takes
    one, and more if all of them have no more tokens than a step; a prompt ends before an image that is too many.
    """

    def __init__(self, budget: int, longest: int) -> None:
        self._step, self._longest, self.left = budget, longest, budget
        self._embedded = 0  # tokens of the images that go through the vision tower

    def take(self, sequence: Sequence, at_most: int | None = None) -> int:
        """Return how many tokens of a prompt this step computes, `at_most` so many if that is given; 0 for none yet."""
        whole = sequence.remaining <= self._step
        most = -(-self._longest // 2) if sequence.scoring else self._step if whole else self._longest
        count = min(sequence.remaining, self.left, most)
        count = count if at_most is None else min(count, at_most)
        count = self._up_to_images(sequence, count)
        self.left -= count
        return count

    def _up_to_images(self, sequence: Sequence, count: int) -> int:
        """Return how many of the next `count` tokens of a prompt come before an image that is too many."""
        for number, span in sequence.images_in(count):
            if number not in sequence.image_embeds:
                if self._embedded and self._embedded + len(span) > self._step:
                    return max(0, span.start - sequence.num_computed)
                self._embedded += len(span)
        return count


class _Masks:
    """Divides the seconds by which grammars may lengthen a step among the rows whose masks take long.

    One row takes part in any case. Those that sit this step out come first in a later one, having taken less.
    """

    def __init__(self) -> None:
        self._left = MASK_SECONDS

    def take(self, sequence: Sequence) -> bool:
        """Return whether a row takes part in this step."""
        seconds = sequence.mask_seconds
        if seconds <= QUICK_MASK:
            return True
        if self._left <= 0:
            return False
        self._left -= seconds
        return True

    def among(self, rows: list[Sequence]) -> list[Sequence]:
        """Return the rows that take part in this step, in their order."""
        slow = [row for row in rows if row.mask_seconds > QUICK_MASK]
        out = {id(row) for row in sorted(slow, key=attrgetter("mask_spent")) if not self.take(row)}
        return [row for row in rows if id(row) not in out] if out else rows


class Scheduler:
    """Moves sequences from the waiting room to slots and back, and plans steps of at most `max_tokens` tokens.

    pool: holds one sequence of the full length at least. on_start: called with each sequence that has just got its slot
    and blocks, with what was found of its prefix; returns whether it can run. overhead: the fixed cost of a step, in
    tokens. ahead: for how many tokens beyond its last one a running sequence has blocks. drafts: how many drafted
    tokens of a sequence a step may compute.
    """

    def __init__(
        self,
        room: WaitingRoom,
        pool: BlockPool,
        max_num_seqs: int,
        max_tokens: int,
        on_start: Callable[[Sequence], bool],
        overhead: int = 0,
        ahead: int = 0,
        drafts: int = 0,
    ) -> None:
        self.drafts = Drafts(drafts, max_num_seqs, overhead)
        self._room, self.pool, self._on_start = room, pool, on_start
        self._shares, self._ahead = StepShares(overhead), ahead
        self._growth = -(-(1 + ahead) // BLOCK)  # blocks that a running sequence may come to need in a step
        self._max_num_seqs, self._max_tokens = max_num_seqs, max_tokens
        self._batch_share = max(
            1, max_num_seqs // BATCH_EVERY
        )  # slots that interactive requests do not take from batches
        self._free_slots = list(range(max_num_seqs))  # a heap: low slots first keeps decode rows neighbours
        self._started = 0
        self._held: dict[Priority, Counter[str]] = {priority: Counter() for priority in Priority}  # slots of clients
        self._next_deadline = math.inf
        self._favoured: Sequence | None = None  # a waiting one that others have given up their slots and blocks for
        self.running: list[Sequence] = []  # in the order in which they started
        self._of_clients: dict[str, list[Sequence]] = {}  # the same of each client

    def schedule(self) -> Plan:
        """Return the next step; its sequences have their slots and blocks. No sequence may be left to preempt."""
        newcomer = self._newcomer()
        limits = self._shares.limits(self._held, newcomer)
        within, beyond = self._divided(limits)
        masks = _Masks()
        remaining = [(s, s.remaining) for s in within]
        decode = masks.among([s for s, left in remaining if left == 1 and s.ready])
        budget = max(1, min(self._max_tokens, limits.tokens or self._max_tokens) - len(decode))
        waiting = 0 if newcomer is None else min(len(self._room), len(self._free_slots))
        prompts = [s for s, left in remaining if left > 1]
        chunks = _Chunks(budget, max(1, budget // 2) if len(prompts) + waiting > 1 else budget)
        most = self._tokens_of_batches(limits, len(decode))
        prefill = [
            (s, count)
            for s in prompts
            if chunks.left and (count := chunks.take(s, most if s.request.priority is Priority.BATCH else None))
        ]
        beyond += self._start_new(prefill, chunks, limits, most)
        self._add_excess(decode, prefill, beyond, chunks, masks, limits)
        if not prefill:  # such a step does not wait for the weights
            self.drafts.add(decode, self._modest(decode, limits) if beyond else None)
        for sequence in chain(decode, (sequence for sequence, _ in prefill)):
            self._grow(sequence)
        self._shares.count(decode, prefill)
        return Plan(sorted(decode, key=lambda s: s.slot), prefill)

    @property
    def waits_for_grammars(self) -> bool:
        """Whether a running sequence could go on, had its grammar the next mask; asked where no step could be made.

        Whether it is there now does not count: it may have come since.
        """
        return any(sequence.remaining for sequence in self.running)

    def register(self, sequence: Sequence) -> None:
        """Let later sequences find the whole blocks that are computed of this one."""
        keys = sequence.keys()[: sequence.num_computed]
        sequence.blocks = self.pool.register(sequence.blocks, keys, sequence.scope)

    def disown(self, sequence: Sequence, bad: list[int]) -> list[int]:
        """Let nobody find what this sequence alone has computed, nor `bad` ones of its blocks and what follows those.

        Returns the blocks that are free now.
        """
        freed = self.pool.forget(bad)
        self.pool.forget_own(sequence.blocks)
        return freed

    def finish(self, sequence: Sequence) -> list[int]:
        """Free the slot and blocks of a sequence that has ended; return the blocks that nobody can find or use."""
        if not sequence.scope.kept:
            self.pool.forget_own(sequence.blocks)
        sequence.phase = Phase.FINISHED
        return self._release(sequence)

    def ended(self, now: float, aborted: bool) -> list[tuple[Sequence, ServiceError]]:
        """Return the running sequences that were aborted or are past their deadline, each with its error.

        aborted: whether any may have been aborted.
        """
        if not aborted and now < self._next_deadline:
            return []
        self._next_deadline = min((s.waits_until for s in self.running), default=math.inf)
        reasons = ((sequence, sequence.reason_to_end(now)) for sequence in self.running)
        return [(sequence, error) for sequence, error in reasons if error is not None]

    def sequence_to_preempt(self) -> Sequence | None:
        """Return the sequence that must give its slot and blocks up before the next step, None if there is none.

        First for those that run, if they lack blocks for their next tokens, then for the next in the queue, if it finds
        no slot or no blocks. If nobody has to give any up for that one, the next of the other priorities follow, and
        start with what is given up for them; what becomes free by itself is left to the first.
        """
        if self._lacks_blocks():
            return self._largest_holder()
        heads = self._room.heads(self._held) if len(self._room) else []
        if self._favoured not in heads:
            self._favoured = None
        if heads and self._next(heads) is not None:
            return None
        for waiting in heads if self._favoured is None else [self._favoured]:
            if (victim := self._victim_for(waiting)) is not None:
                self._favoured = waiting
                return victim
        self._favoured = None
        return None

    def _victim_for(self, waiting: Sequence) -> Sequence | None:
        """Return the running sequence that must make room for a waiting one, the one that started last.

        All others go before batches, which keep their share of the slots; within a priority, the client with the most
        slots gives one up only if that makes the clients more equal. For one of high priority interactive ones count
        too, but not the other way round.
        """
        priority, client = waiting.request.priority, waiting.request.client
        if priority is not Priority.BATCH and self._held[Priority.BATCH].total() > self._batch_share:
            return self._youngest(Priority.BATCH)
        equals = (Priority.INTERACTIVE, Priority.HIGH) if priority is Priority.HIGH else (priority,)
        holders = ((slots, holder, among) for among in equals for holder, slots in self._held[among].items())
        slots, richest, among = max(holders, key=lambda item: item[0], default=(0, "", priority))
        return self._youngest(among, richest) if slots >= self._held[priority][client] + 2 else None

    def preempt(self, sequence: Sequence) -> list[int]:
        """Send a running sequence back to the queue; return the blocks that nobody can find or use.

        What is computed of it in whole blocks stays until its memory is needed.
        """
        self.register(sequence)
        freed = self._release(sequence)
        sequence.phase = Phase.WAITING
        sequence.most_computed = max(sequence.most_computed, sequence.num_computed)
        sequence.num_computed = sequence.pending = 0
        self._room.put_back(sequence)
        return freed

    def check(self) -> str | None:
        """Return what is wrong with the accounting, None if slots and blocks are free or held by running sequences."""
        held = [sequence.slot for sequence in self.running]
        if sorted(held + self._free_slots) != list(range(self._max_num_seqs)):
            return f"slots held {sorted(held)}, free {sorted(self._free_slots)} of {self._max_num_seqs}"
        if any(sequence.phase is not Phase.RUNNING for sequence in self.running):
            return "a sequence that is not running holds a slot"
        counted = {p: Counter(s.request.client for s in self.running if s.request.priority is p) for p in Priority}
        if counted != self._held:
            return f"slots are counted as {self._held}, and held as {counted}"
        if any(earlier.order >= later.order for earlier, later in pairwise(self.running)):
            return "the running sequences are not in the order in which they started"
        if sorted(chain(*self._of_clients.values()), key=attrgetter("order")) != self.running:
            return "the sequences of the clients are not those that run"
        return self.pool.check(sequence.blocks for sequence in self.running)

    def _fits(self, sequence: Sequence) -> bool:
        """Return whether there are blocks for a waiting sequence, and for each that runs to grow into."""
        needed = sequence.blocks_needed(self._ahead)
        room = self.pool.available - self._lacking() - self._growth * len(self.running)
        if needed <= room or sequence.scoring:
            return needed <= room
        return self.pool.cost(sequence.keys(), sequence.scope, needed) <= room

    def _lacks_blocks(self) -> bool:
        available = self.pool.available
        return self._growth * len(self.running) > available and self._lacking() > available

    def _lacking(self) -> int:
        """Return how many blocks the running sequences need for their next tokens and do not have yet."""
        lacking = (sequence.blocks_needed(self._ahead) - len(sequence.blocks) for sequence in self.running)
        return sum(number for number in lacking if number > 0)

    def _largest_holder(self) -> Sequence | None:
        """Return the youngest of the client with most blocks, batches beyond their share first; never the oldest."""
        oldest = min(self.running, key=lambda s: s.order)
        held: Counter[str] = Counter()
        for sequence in self.running:
            held[sequence.request.client] += len(sequence.blocks)
        beyond = self._held[Priority.BATCH].total() > self._batch_share
        return max(
            (sequence for sequence in self.running if sequence is not oldest),
            key=lambda s: (beyond and s.request.priority is Priority.BATCH, held[s.request.client], s.order),
            default=None,
        )

    def _grow(self, sequence: Sequence) -> None:
        """Give a running sequence the blocks for its next tokens."""
        if len(sequence.token_ids) + self._ahead <= BLOCK * len(sequence.blocks):
            return  # as in most steps; those after the end of its answer need none
        missing = sequence.blocks_needed(self._ahead) - len(sequence.blocks)
        if missing > 0:
            sequence.blocks += self.pool.allocate(missing)

    def _newcomer(self) -> Sequence | None:
        """Return the waiting sequence that is the first to start in the next step, None if none does."""
        heads = self._room.heads(self._held) if self._free_slots and len(self._room) else []
        return self._next(heads) if heads else None

    def _next(self, heads: list[Sequence]) -> Sequence | None:
        """Return which of the next sequences of each priority starts now, None if none can."""
        first = heads[0] if self._favoured not in heads else self._favoured
        return first if self._free_slots and self._fits(first) else None

    def _divided(self, limits: StepLimits) -> tuple[list[Sequence], list[Sequence]]:
        """Return the running sequences within their clients' shares, the oldest first, and those beyond them.

        Where batches are pooled, without those of them that cannot go on now: another one does in their turn.
        """
        clients: Iterable[list[Sequence]] = self._of_clients.values()
        pool: list[Sequence] = []
        if limits.pooled:
            clients = [[s for s in sequences if s.request.priority is not Priority.BATCH] for sequences in clients]
            batches = (s for s in self.running if s.request.priority is Priority.BATCH)
            pool = self._shares.in_turn([s for s in batches if s.remaining and s.ready])
        elif self._held[Priority.BATCH]:
            clients = [self._oldest_first([*sequences]) for sequences in clients]
        within, beyond = divided(clients, limits, pool)
        return self._oldest_first(within), beyond

    def _oldest_first(self, sequences: list[Sequence]) -> list[Sequence]:
        """Return running sequences in the order in which they started, interactive ones before batches."""
        if len(self._of_clients) > 1:
            sequences.sort(key=attrgetter("order"))
        if self._held[Priority.BATCH]:
            sequences.sort(key=lambda sequence: sequence.request.priority)
        return sequences

    def _tokens_of_batches(self, limits: StepLimits, tokens: int) -> int | None:
        """Return how many tokens of a batch's prompt a step of so many others computes, None for no limit.

        A block at least: a step with a prompt costs more than one without, whatever its length.
        """
        if not limits.pooled or limits.alone:
            return None
        return max(BLOCK, limits.pool + self._shares.excess(limits, tokens))

    def _in_turn(self, beyond: list[Sequence], limits: StepLimits) -> list[Sequence]:
        """Return what is beyond the shares in the order in which it goes on."""
        if not limits.pooled:
            return self._oldest_first(beyond)
        chats = [sequence for sequence in beyond if sequence.request.priority is not Priority.BATCH]
        batches = [sequence for sequence in beyond if sequence.request.priority is Priority.BATCH]
        return self._oldest_first(chats) + self._shares.in_turn(batches)

    def _modest(self, decode: list[Sequence], limits: StepLimits) -> list[Sequence]:
        """Return the sequences of clients that have no more than their share: drafts of others lengthen steps too."""
        return [s for s in decode if not limits.beyond(s, self._sharing(s, limits))]

    def _sharing(self, sequence: Sequence, limits: StepLimits) -> int:
        """Return how many sequences run that have one share with this one, which is among them."""
        client, priority = sequence.request.client, sequence.request.priority
        if not limits.pooled:
            return len(self._of_clients[client])
        if priority is Priority.BATCH:
            return self._held[Priority.BATCH].total()
        return self._held[Priority.INTERACTIVE][client] + self._held[Priority.HIGH][client]

    def _start_new(
        self, prefill: list[tuple[Sequence, int]], chunks: _Chunks, limits: StepLimits, most: int | None
    ) -> list[Sequence]:
        """Start waiting sequences while there are slots, blocks and tokens; return those beyond their clients' share.

        most: tokens of a batch's prompt.

        The clients with the fewest slots come first, so once one is beyond its share, the others that wait are too;
        but a batch, whose turn has come among the starts, does not keep the chats that wait behind it.
        """
        beyond = []
        while chunks.left and self._free_slots:
            if (sequence := self._room.take(self._held, self._next)) is None:
                break
            self._favoured = None
            self._start(sequence)
            if not self._on_start(sequence):
                continue
            if limits.beyond(sequence, self._sharing(sequence, limits)):
                beyond.append(sequence)
                if limits.pooled and sequence.request.priority is Priority.BATCH and len(beyond) == 1:
                    continue
                break
            if count := chunks.take(sequence, most if sequence.request.priority is Priority.BATCH else None):
                prefill.append((sequence, count))
        return beyond

    def _add_excess(
        self,
        decode: list[Sequence],
        prefill: list[tuple[Sequence, int]],
        beyond: list[Sequence],
        chunks: _Chunks,
        masks: _Masks,
        limits: StepLimits,
    ) -> None:
        """Add what is beyond its client's share: a token where nothing else is computed, or what hardly matters."""
        tokens = len(decode) + sum(count for _, count in prefill)
        spare = max(self._shares.excess(limits, tokens), not tokens)
        for sequence in self._in_turn(beyond, limits) if spare > 0 else ():
            if min(spare, chunks.left) <= 0:
                return
            if sequence.remaining == 1:
                if not sequence.ready or not masks.take(sequence):
                    continue
                decode.append(sequence)
                chunks.left, count = chunks.left - 1, 1
            elif not sequence.remaining:
                continue
            elif count := chunks.take(sequence, spare):
                prefill.append((sequence, count))
            spare -= count

    def _start(self, sequence: Sequence) -> None:
        """Give a sequence its slot, and its blocks: those found of its prefix, and new ones."""
        sequence.blocks = [] if sequence.scoring else self.pool.find(sequence.keys(), sequence.scope)
        sequence.num_computed = len(sequence.blocks) * BLOCK
        self._grow(sequence)
        sequence.slot = heapq.heappop(self._free_slots)
        sequence.phase = Phase.RUNNING
        self._started += 1
        sequence.order = self._started
        self.running.append(sequence)
        self._of_clients.setdefault(sequence.request.client, []).append(sequence)
        self._next_deadline = min(self._next_deadline, sequence.waits_until)
        self._held[sequence.request.priority][sequence.request.client] += 1
        if sequence.started_at is None:  # it was not preempted
            self._shares.started(sequence)

    def _release(self, sequence: Sequence) -> list[int]:
        held, client = self._held[sequence.request.priority], sequence.request.client
        self.running.remove(sequence)
        self._of_clients[client].remove(sequence)
        if not self._of_clients[client]:
            del self._of_clients[client]
        heapq.heappush(self._free_slots, sequence.slot)
        sequence.slot = -1
        held[client] -= 1
        if not held[client]:
            del held[client]
        blocks, sequence.blocks = sequence.blocks, []
        return self.pool.release(blocks)

    def _youngest(self, priority: Priority, client: str | None = None) -> Sequence:
        """Return the running sequence of a priority, and of a client if named, that started last."""
        rows = (s for s in self.running if s.request.priority is priority)
        return max((s for s in rows if client in (None, s.request.client)), key=lambda s: s.order)
