"""The days and months of budgets, in UTC. Times are seconds since the epoch."""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Period:
    """A day or a month: from its first second to that of the next one."""

    start: int
    end: int

    def __contains__(self, moment: float) -> bool:
        return self.start <= moment < self.end


def day_of(moment: float) -> Period:
    """Return the day of a moment."""
    start = int(moment // DAY) * DAY
    return Period(start, start + DAY)


def month_of(moment: float) -> Period:
    """Return the month of a moment."""
    year, month = time.gmtime(moment)[:2]
    start = calendar.timegm((year, month, 1, 0, 0, 0))
    return Period(start, start + calendar.monthrange(year, month)[1] * DAY)
