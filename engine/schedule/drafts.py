"""Which drafted tokens a step computes beside the last one of each sequence.

An answer often repeats its prompt, or itself: an advert that is rewritten, names, lists. A step that computes a few
tokens more takes little longer on a processor, which waits for the weights; each draft that turns out to be what is
chosen there anyway saves a step. Answers do not change: every token is drawn from the model's own logits with its own
random number, and a draft is kept only if it is that token.

Source: prompt lookup decoding (A. Saxena, 2023); how many drafts pay is estimated here from those that were right.
"""

from __future__ import annotations

from collections import abc

from engine.schedule.drafter import Drafter
from engine.schedule.sequence import Sequence
from engine.schedule.step_times import StepTimes

MARGIN = 1.05  # by which the drafts of a step must be expected to pay together: what is expected is an estimate
ALONE = 1.02  # by which those of its best sequence must, before any are looked for
PATIENCE = 2  # drafts beyond the best number so far that are considered
TRIAL = 16  # steps after which a sequence without drafts tries one, times the rows of a step
REST = 3  # steps in which drafts are not considered, after one in which they did not pay
REFRESH = 8  # times that drafts are considered by the same estimates of steps


class Drafts:
    """Gives decoding sequences their drafts.

    most: of one sequence; 0: none. rows: with logits in one step, at most. overhead: the fixed cost of a step, in rows,
    until it has been measured.
    """

    def __init__(self, most: int, rows: int, overhead: int) -> None:
        self._most, self._rows = most, rows
        self._times = StepTimes(overhead)
        self._estimates: dict[int, float] = {}  # of seconds, by rows
        self._rest = self._age = 0  # steps left to rest, and times that the estimates were used

    def add(self, decode: abc.Sequence[Sequence], modest: abc.Sequence[Sequence] | None = None) -> None:
        """Set the drafts of the sequences that are all of a step, or of those among them that are `modest`.

        They pay if they are expected to add more to the tokens of the step, as a share, than to its time.
        """
        if not self._most:
            return
        if self._rest:
            self._rest -= 1
            return
        self._age = (self._age + 1) % REFRESH
        if not self._age:
            self._estimates.clear()
        drafted = [(sequence, _drafter(sequence)) for sequence in (decode if modest is None else modest)]
        rows = self._draft(len(decode), drafted)
        for sequence, drafter in drafted:
            due = not sequence.drafts and len(sequence.token_ids) - drafter.tried_at >= TRIAL * len(decode)
            if due and rows < self._rows and _useful(sequence) > 0:
                sequence.drafts = drafter.propose(sequence.token_ids, 1)
                return

    def _draft(self, decoded: int, drafted: abc.Sequence[tuple[Sequence, Drafter]]) -> int:
        """Give sequences their drafts, if those pay together; return the rows of the step, which decodes so many."""
        gain, rows = float(decoded), decoded
        needed = MARGIN * gain / self._time(rows)
        best = max((drafter.chance for _, drafter in drafted), default=0.0)
        if self._worthwhile(best, self._most, gain, rows, ALONE):
            for sequence, drafter in drafted:
                most = min(self._most, self._rows - rows, _useful(sequence))
                found = drafter.propose(sequence.token_ids, most) if most > 0 else []
                if found and (count := self._worthwhile(drafter.chance, len(found), gain, rows)):
                    sequence.drafts = found[:count]
                    rows += count
                    gain += sum(drafter.chance**place for place in range(1, count + 1))
            if rows == decoded or gain / self._time(rows) > needed:
                return rows
            for sequence, _ in drafted:
                sequence.drafts = []
        self._rest = REST
        return decoded

    def learn(self, rows: int, seconds: float) -> None:
        """Take the time of a whole step of so many rows, drafts among them: a step that is saved saves all of it."""
        if self._most:
            self._times.learn(rows, seconds)

    def _worthwhile(self, chance: float, most: int, gain: float, rows: int, margin: float = 1.0) -> int:
        """Return how many drafts of a sequence pay best in a step that is expected to gain so much without them.

        most: of them; chance: that one is right if those before it are; margin: by which they must pay at least.
        """
        best, speed, right = 0, margin * gain / self._time(rows), chance
        for count in range(1, most + 1):
            gain, right = gain + right, right * chance
            if (now := gain / self._time(rows + count)) > speed:
                best, speed = count, now
            elif count - best >= PATIENCE:
                break
        return best

    def _time(self, rows: int) -> float:
        if rows not in self._estimates:
            self._estimates[rows] = self._times.estimate(rows)
        return self._estimates[rows]


def _drafter(sequence: Sequence) -> Drafter:
    if sequence.drafter is None:
        sequence.drafter = Drafter()
    return sequence.drafter


def _useful(sequence: Sequence) -> int:
    """Return how many drafts of a sequence can become part of its answer and be drawn in one step."""
    sampling, output = sequence.sampling, sequence.num_output
    if sequence.needs_its_tokens or output < sampling.min_tokens:
        return 0
    return sampling.max_tokens - output - 1
