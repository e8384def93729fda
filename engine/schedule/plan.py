"""One step, as the scheduler plans it and a runner computes it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.schedule.sequence import Phase, Sequence


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
        return [*[(sequence, 1) for sequence in self.decode], *self.prefill]

    def drop_drafts(self) -> bool:
        """Take the drafts of its sequences from them; return whether there were any."""
        drafted = [sequence for sequence in self.decode if sequence.drafts]
        for sequence in drafted:
            sequence.drafts = []
        return bool(drafted)

    def running(self) -> Plan:
        """Return the plan without the sequences that have left since it was made."""
        decode = [sequence for sequence in self.decode if sequence.phase is Phase.RUNNING]
        return Plan(decode, [row for row in self.prefill if row[0].phase is Phase.RUNNING])

    def halves(self) -> tuple[Plan, Plan]:
        """Return two plans that together compute this one: of half the sequences each, or half of the one chunk."""
        rows, chunks = len(self.decode), len(self.prefill)
        if rows + chunks == 1:
            sequence, count = self.prefill[0]
            return Plan(prefill=[(sequence, count // 2)]), Plan(prefill=[(sequence, count - count // 2)])
        middle = (rows + chunks) // 2
        first = Plan(self.decode[:middle], self.prefill[: max(0, middle - rows)])
        return first, Plan(self.decode[middle:], self.prefill[max(0, middle - rows) :])
