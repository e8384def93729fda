"""How much of a step each client may have, so that the many sequences of one do not slow the few of the others.

A step that is longer for one client's sake is longer for every other client too. So while several clients have slots,
each computes as many sequences as the median client has. What one has beyond that, the oldest first, may lengthen the
step by an eighth at most, together with a share: half of what one client may cost the others, since its requests cost
processor time too. Clients that are alike and those of high priority are not held back.

Nor is a lone client, but while others come and go its steps are kept short, for a request that arrives waits for the
one that is being computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.schedule.sequence import Sequence
from engine.types import Priority

EXCESS_SHARE = 8  # a step may be longer by one part in so many for clients that have more than their share
ALONE = 2  # times the fixed cost of a step: what a lone client's tokens may cost while others come and go
EXPECTED_FOR = 500  # steps in which others are expected again, after the last one that was shared


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one step. rows: sequences of each client that are computed in any case; tokens: of the whole step.

    alone: one client has all slots, and nobody else starts; exempt: some that run are of high priority. None for no
    limit.
    """

    rows: int | None = None
    tokens: int | None = None
    alone: bool = False
    exempt: bool = False

    def beyond(self, sequence: Sequence, count: int) -> bool:
        """Return whether a sequence is beyond its client's share, of which `count` sequences run up to this one."""
        return self.rows is not None and count > self.rows and sequence.request.priority is not Priority.HIGH


class StepShares:
    """The limits of each step. overhead: the fixed cost of a step, in tokens."""

    def __init__(self, overhead: int) -> None:
        self._overhead = overhead
        self._steps_alone = EXPECTED_FOR

    def limits(self, held: Mapping[Priority, Counter[str]], newcomer: Sequence | None) -> Limits:
        """Return the limits of the next step. held: slots of clients; newcomer: the first that starts in it."""
        counts, exempt = _counts(held, newcomer), bool(held[Priority.HIGH])
        if len(counts) > 1:
            self._steps_alone = 0
            return Limits(rows=sorted(counts)[(len(counts) - 1) // 2], exempt=exempt)
        self._steps_alone += 1
        if self._steps_alone > EXPECTED_FOR or not self._overhead:
            return Limits(alone=True)
        return Limits(ALONE * self._overhead, ALONE * self._overhead, alone=True, exempt=exempt)

    def excess(self, limits: Limits, tokens: int) -> int:
        """Return how many tokens what is beyond the shares may add to a step of so many."""
        if limits.alone or limits.rows is None:
            return 0
        return (self._overhead + tokens) // EXCESS_SHARE - limits.rows


def divided(clients: Iterable[list[Sequence]], limits: Limits) -> tuple[list[Sequence], list[Sequence]]:
    """Return the sequences within their clients' shares and those beyond them.

    clients: the sequences of each, in the order of their starts, which each client's keep.
    """
    within, beyond, rows = list[Sequence](), list[Sequence](), limits.rows
    for sequences in clients:
        within += sequences[:rows]
        if rows is not None:
            beyond += sequences[rows:]
    if limits.exempt:
        within += [sequence for sequence in beyond if sequence.request.priority is Priority.HIGH]
        beyond = [sequence for sequence in beyond if sequence.request.priority is not Priority.HIGH]
    return within, beyond


def _counts(held: Mapping[Priority, Counter[str]], newcomer: Sequence | None) -> list[int]:
    """Return how many sequences each client runs, the newcomer's one if it has no other."""
    running = held[Priority.INTERACTIVE]
    for other in (Priority.HIGH, Priority.BATCH):
        if held[other]:
            running = running + held[other]
    counts = list(running.values())
    if newcomer is not None and newcomer.request.client not in running:
        counts.append(1)
    return counts
