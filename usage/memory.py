"""The records that no journal could take, added up until the database has them. The end of the process loses them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from usage.record import UsageRecord
from usage.store import OTHERS
from usage.sums import Sums

MOST_ROWS = 30_000  # some megabytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the database is to get: it adds what stands between two positions, which count records."""

    before: int
    after: int
    sums: Sums


class Memory:
    """Sums of records. A part that is being stored stays until it is. Thread-safe.

    most_rows: of figures; then a further user of an account counts as one of the others. lost: how many records found
    no room.
    """

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._lock = threading.Lock()  # guards the fields below
        self._open = Sums()
        self._storing: Waiting | None = None
        self._end = 0
        self.lost = 0

    @property
    def records(self) -> int:
        """How many records the database does not have."""
        storing = self._storing
        return self._open.records + (0 if storing is None else storing.sums.records)

    def append(self, record: UsageRecord) -> int:
        """Add a record; return the position behind it, 1 for the first."""
        with self._lock:
            if len(self._open) >= self._most_rows and not self._open.has_rows(record):
                if not self._open.has_rows(record, user=False):
                    self.lost += 1
                    return self._end
                record = replace(record, user=OTHERS)
            self._open.add(record)
            self._end += 1
            return self._end

    def waiting(self) -> Waiting | None:
        """Return what is to be stored next, the same until `take`; None if there is nothing."""
        with self._lock:
            if self._storing is None and self._open.records:
                self._storing = Waiting(self._end - self._open.records, self._end, self._open)
                self._open = Sums()
            return self._storing

    def take(self) -> None:
        """Let go of what was waiting: the database has it."""
        with self._lock:
            self._storing = None
