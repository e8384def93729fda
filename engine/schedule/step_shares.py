"""How much of a step each client may have, so that the many sequences of one do not slow the few of the others.

A step that is longer for one client's sake is longer for every other client too. So while several clients have slots,
each computes as many sequences as the median client has. What one has beyond that, the oldest first, may lengthen the
step by an eighth at most, together with a share: half of what one client may cost the others, since its requests cost
processor time too. Clients that are alike and those of high priority are not held back.

Batches, of however many clients, have a small share together while anything else runs, beside chats that hardly notice:
one sequence, of the client that has had least, or as many as lengthen the step by an eighth.

A lone client is not held back, nor are batches by themselves, but while others come and go their steps are kept short,
for a request that arrives waits for the one that is being computed.

Equal shares of each step are unequal over time where a client has had all steps between the others' requests. So one
with many times their sequences, or that has started many lately, stands back while all others together have had less
than it lately: its share is computed in one step of so many, by which its oldest answer goes on. Its interactive
sequences and those of its batches are judged apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.schedule.sequence import Sequence
from engine.types import Priority

EXCESS_SHARE = 8  # a step may be longer by one part in so many for clients that have more than their share
ALONE = 2  # times the fixed cost of a step: a lone client's tokens while others come and go, half of them sequences
EXPECTED_FOR = 500  # steps in which others are expected again, after the last one that was shared
POOL = 1  # sequences of batches in each step beside anything else
MANY = 8  # sequences; with fewer no client stands back
TIMES = 4  # what a client that stands back has more of, than so many times the median client
LATELY = 500  # steps, after which what was computed counts half
NOT_BACK = 16  # one in so many steps that are counted, in which no client stands back

Flow = tuple[str, Priority]  # the sequences of a client with one priority


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The limits of one step. rows: sequences of each client that are computed in any case; tokens: of the whole step.

    alone: one client, or batches, have all slots, and nobody else starts; exempt: some that run are of high priority;
    back: whose sequences are not computed in any case; pooled: all batches have one share. None for no limit.
    """

    rows: int | None = None
    tokens: int | None = None
    alone: bool = False
    exempt: bool = False
    back: frozenset[Flow] = frozenset()
    pooled: bool = False

    @property
    def pool(self) -> int:
        """How many sequences of batches are computed in any case, where these have one share."""
        return (self.rows or POOL) if self.alone else POOL

    def beyond(self, sequence: Sequence, count: int) -> bool:
        """Return whether a sequence is beyond a share, of which `count` sequences run up to this one."""
        rows = self.pool if self.pooled and _in_batch(sequence) else self.rows
        return rows is not None and count > rows and sequence.request.priority is not Priority.HIGH


class StepShares:
    """The limits of each step. overhead: the fixed cost of a step, in tokens."""

    def __init__(self, overhead: int) -> None:
        self._overhead = overhead
        self._steps, self._steps_alone = 0, EXPECTED_FOR
        self._steps_of_batches = EXPECTED_FOR  # since anything else ran
        self._computed: Counter[Flow] = Counter()  # tokens of each lately
        self._started: Counter[Flow] = Counter()  # sequences of each lately

    def limits(self, held: Mapping[Priority, Counter[str]], newcomer: Sequence | None) -> StepLimits:
        """Return the limits of the next step. held: slots of clients; newcomer: the first that starts in it."""
        exempt = bool(held[Priority.HIGH])
        batches = bool(held[Priority.BATCH]) or (newcomer is not None and _in_batch(newcomer))
        others = exempt or bool(held[Priority.INTERACTIVE]) or (newcomer is not None and not _in_batch(newcomer))
        if others:
            self._steps_of_batches = 0
        elif batches and self._overhead and self._steps_of_batches < EXPECTED_FOR:
            self._steps_of_batches += 1
            self._steps_alone += 1
            return StepLimits(self._overhead, ALONE * self._overhead, alone=True, pooled=True)
        pooled = batches and others
        running = _running(held, pooled)
        counts = [*running.values()]
        if newcomer is not None and newcomer.request.client not in running and not (pooled and _in_batch(newcomer)):
            counts.append(1)
        if pooled and len(counts) < 2:
            self._steps_alone = 0
            return StepLimits(exempt=exempt, pooled=True)
        if len(counts) > 1:
            self._steps_alone = 0
            rows = sorted(counts)[(len(counts) - 1) // 2]
            back = self._standing_back(held, rows, len(counts), pooled)
            return StepLimits(rows, exempt=exempt, back=back, pooled=pooled)
        self._steps_alone += 1
        if self._steps_alone > EXPECTED_FOR or not self._overhead:
            return StepLimits(alone=True)
        return StepLimits(self._overhead, ALONE * self._overhead, alone=True, exempt=exempt)

    def started(self, sequence: Sequence) -> None:
        """Count a sequence that has started."""
        self._started[_flow(sequence)] += 1

    def count(self, decode: Iterable[Sequence], prefill: Iterable[tuple[Sequence, int]]) -> None:
        """Count what a step computes, for the shares of the next ones, unless no others are expected."""
        if self._steps_alone > EXPECTED_FOR:
            self._computed.clear()
            self._started.clear()
            return
        self._steps += 1
        if not self._steps % LATELY:
            self._computed, self._started = _halved(self._computed), _halved(self._started)
        for sequence in decode:
            self._computed[_flow(sequence)] += 1
        for sequence, tokens in prefill:
            self._computed[_flow(sequence)] += tokens

    def excess(self, limits: StepLimits, tokens: int) -> int:
        """Return how many tokens what is beyond the shares may add to a step of so many."""
        if limits.alone or (limits.rows is None and not limits.pooled):
            return 0
        return (self._overhead + tokens) // EXCESS_SHARE - (limits.rows or POOL)

    def in_turn(self, batches: list[Sequence]) -> list[Sequence]:
        """Return the sequences of batches, those of the client first that has had least lately."""
        return sorted(batches, key=lambda sequence: self._computed[_flow(sequence)])

    def _standing_back(
        self, held: Mapping[Priority, Counter[str]], rows: int, clients: int, pooled: bool
    ) -> frozenset[Flow]:
        """Return what has many sequences, and has had more than all with few together.

        rows: the median client's; clients: how many run or start. What batches have had is held against them alone
        where they are pooled.
        """
        if not self._steps % NOT_BACK:
            return frozenset()
        kinds = (Priority.INTERACTIVE,) if pooled else (Priority.INTERACTIVE, Priority.BATCH)
        many = self._with_many({(client, kind): count for kind in kinds for client, count in held[kind].items()}, rows)
        if len({client for client, _ in many}) == clients:  # some have many sequences, and others have started many
            return frozenset()
        had = {flow: tokens for flow, tokens in self._computed.items() if not pooled or flow[1] is not Priority.BATCH}
        few = sum(had.values()) - sum(had.get(flow, 0) for flow in many)
        return frozenset(flow for flow in many if had.get(flow, 0) > few)

    def _with_many(self, counts: Mapping[Flow, int], rows: int) -> list[Flow]:
        """Return what has many sequences, or has started many lately; both are more than the others have."""
        most, most_started = max(MANY - 1, TIMES * rows), MANY - 1
        if any(self._started[flow] > most_started for flow in counts):  # as hardly ever
            started = sorted(self._started[flow] for flow in {*self._started, *counts})
            most_started = max(most_started, TIMES * started[(len(started) - 1) // 2])
        return [flow for flow, count in counts.items() if count > most or self._started[flow] > most_started]


def divided(
    clients: Iterable[list[Sequence]], limits: StepLimits, pool: Iterable[Sequence] = ()
) -> tuple[list[Sequence], list[Sequence]]:
    """Return the sequences within their clients' shares and those beyond them.

    clients: the sequences of each, in the order of their starts, which each client's keep; pool: those of batches,
    where they have one share, in the order in which they go on.
    """
    within, beyond = list[Sequence](), list[Sequence]()
    for sequences in clients:
        share, rest = sequences[: limits.rows], [] if limits.rows is None else sequences[limits.rows :]
        if limits.back:
            rest = [sequence for sequence in share if _flow(sequence) in limits.back] + rest
            share = [sequence for sequence in share if _flow(sequence) not in limits.back]
        within += share
        beyond += rest
    if limits.exempt:
        within += [sequence for sequence in beyond if sequence.request.priority is Priority.HIGH]
        beyond = [sequence for sequence in beyond if sequence.request.priority is not Priority.HIGH]
    batches = [*pool]
    return within + batches[: limits.pool], beyond + batches[limits.pool :]


def _halved(numbers: Counter[Flow]) -> Counter[Flow]:
    return Counter({flow: number // 2 for flow, number in numbers.items() if number > 1})


def _flow(sequence: Sequence) -> Flow:
    return sequence.request.client, sequence.request.priority


def _in_batch(sequence: Sequence) -> bool:
    return sequence.request.priority is Priority.BATCH


def _running(held: Mapping[Priority, Counter[str]], pooled: bool) -> Counter[str]:
    """Return how many sequences each client runs. pooled: without those of batches."""
    running = held[Priority.INTERACTIVE]
    for other in (Priority.HIGH,) if pooled else (Priority.HIGH, Priority.BATCH):
        if held[other]:
            running = running + held[other]
    return running
