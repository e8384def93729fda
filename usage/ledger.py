"""What one account, or the whole service, has used and may still use up by requests in flight.

The figures of a day and a month are those of the database plus those of answers of this process that the database does
not have yet. The position of an answer in this process's journal, or in its memory where no journal took it, tells
these apart exactly: the database is read together with the positions up to which it has both. Not safe between threads:
`usage.totals` holds its lock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from keys.account import Limits
from usage.periods import DAY, Period

MINUTE = 60.0
NO_LIMITS = Limits()
MAX_ENTRIES = 2_000  # of answers that the database does not have; more are joined


@dataclass(slots=True)
class Used:
    """Tokens, and money in millionths."""

    tokens: int = 0
    cost: int = 0

    def add(self, tokens: int, cost: int) -> None:
        """Count something more."""
        self.tokens += tokens
        self.cost += cost

    def __add__(self, other: Used) -> Used:
        return Used(self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer. position: as `Recorder.record` returns it; day: the first second of the day in which it ended."""

    position: int
    day: int
    tokens: int
    cost: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What the database has of an account.

    position: up to which it has this process's journal; of_memory: how many of the records that no journal took. apart:
    whether answers of this day are counted under the account's own name; those of an address that came too late in the
    day are not (see `usage.store`).
    """

    day: Period
    month: Period
    position: int
    of_day: Used
    of_month: Used
    of_memory: int = 0
    apart: bool = True

    def has(self, position: int) -> bool:
        """Return whether an answer at this position, as `Recorder.record` returns it, is in it."""
        return position <= self.position if position >= 0 else -position <= self.of_memory


NOTHING_READ = Reading(Period(0, 0), Period(0, 0), -1, Used(), Used())


@dataclass(slots=True, eq=False)
class Ledger:
    """One account's figures. held: what its requests in flight may use at most; running: their number.

    unsized: how many of their answers hold back a whole context, because their prompts are not tokenized yet.
    asked: when it was last asked for, in seconds on the monotonic clock; read: whether the database has been. name,
    limits: of the account, when it was last asked for. joined: by day, what this process answered and the database has
    under no name of the account's own.
    """

    asked: float
    held: Used = field(default_factory=Used)
    running: int = 0
    unsized: int = 0
    reading: Reading = NOTHING_READ
    read: bool = False
    has_budgets: bool = False
    name: str = ""
    limits: Limits = NO_LIMITS
    joined: dict[int, Used] = field(default_factory=dict)
    # None while they are empty, as those of most accounts are: an empty one takes more memory than all the rest.
    _entries: deque[Entry] | None = None
    _by_day: dict[int, Used] = field(default_factory=dict)  # the sums of the entries
    _minute: deque[tuple[float, int]] | None = None  # (when the second ends, tokens)
    _minute_tokens: int = 0

    def used_in(self, period: Period) -> Used:
        """Return what was used in a day or a month."""
        reading, used = self.reading, Used()
        if period == reading.day:
            used = reading.of_day
        elif period == reading.month:
            used = reading.of_month
        for by_day in (self._by_day, self.joined):
            for day, fresh in by_day.items():
                if day in period:
                    used = used + fresh
        return used

    def add(self, position: int, at: float, tokens: int, cost: int) -> None:
        """Count an answer that ended `at` (seconds since the epoch), unless the database was read with it."""
        entry = Entry(position, int(at // DAY) * DAY, tokens, cost)
        if self.reading.has(position):
            self._stored(entry)
            return
        if self._entries is None:
            self._entries = deque()
        self._entries.append(entry)
        self._by_day.setdefault(entry.day, Used()).add(tokens, cost)
        if len(self._entries) > MAX_ENTRIES:
            self._join(self._entries)

    def merge(self, reading: Reading) -> None:
        """Take what the database has; forget the answers that are among it."""
        self.reading, self.read = reading, True
        if self._entries:
            for entry in self._entries:
                if reading.has(entry.position):
                    self._stored(entry)
            self._keep(deque(entry for entry in self._entries if not reading.has(entry.position)))

    def spent_this_minute(self, now: float) -> int:
        """Return the tokens of the last 60 seconds. now: on the monotonic clock."""
        while self._minute and self._minute[0][0] <= now - MINUTE:
            self._minute_tokens -= self._minute.popleft()[1]
        self._minute = self._minute or None
        return self._minute_tokens

    def add_to_minute(self, now: float, tokens: int) -> None:
        """Count the tokens of an answer that ends now; the window moves by whole seconds, and forgets none early."""
        end = math.floor(now) + 1.0
        if self._minute is None:
            self._minute = deque()
        if self._minute and self._minute[-1][0] == end:
            self._minute[-1] = (end, self._minute[-1][1] + tokens)
        else:
            self._minute.append((end, tokens))
        self._minute_tokens += tokens

    def minute_frees(self, now: float, below: int) -> float:
        """Return the seconds until less than `below` tokens are in the last minute."""
        left = self.spent_this_minute(now)
        for end, tokens in self._minute or ():
            left -= tokens
            if left < below:
                return end + MINUTE - now
        return MINUTE

    @property
    def in_flight(self) -> bool:
        """Whether requests run, or hold something back."""
        return bool(self.running or self.held.tokens)

    def is_idle(self, now: float) -> bool:
        """Return whether nothing would be lost with it: nothing in flight, nothing that the database does not have."""
        return not (self.in_flight or self._entries or self.spent_this_minute(now))

    def _join(self, entries: deque[Entry]) -> None:
        """Join the older half of the entries by day, while the database is away.

        They count until it has all of them, so that some may count twice for the time between two readings.
        """
        old = [entries.popleft() for _ in range(MAX_ENTRIES // 2)]
        for some in ([one for one in old if one.position >= 0], [one for one in old if one.position < 0]):
            by_day = dict[int, Used]()
            for entry in some:
                by_day.setdefault(entry.day, Used()).add(entry.tokens, entry.cost)
            last = max((entry.position for entry in some), key=abs, default=0)
            entries.extendleft(Entry(last, day, used.tokens, used.cost) for day, used in by_day.items())

    def _stored(self, entry: Entry) -> None:
        """Go on counting an answer that the database has, if not under the account's own name."""
        if not self.reading.apart and entry.day == self.reading.day.start:
            self.joined.setdefault(entry.day, Used()).add(entry.tokens, entry.cost)

    def _keep(self, entries: deque[Entry]) -> None:
        self._entries, self._by_day = entries or None, {}
        for entry in entries:
            self._by_day.setdefault(entry.day, Used()).add(entry.tokens, entry.cost)
