"""Days and months of UTC."""

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keys.written import in_words
from usage.periods import day_of, month_of

# On a busy machine too, no test fails for the time that it takes.
CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def seconds(*parts):
    return int(datetime(*parts, tzinfo=UTC).timestamp())


def test_a_month_has_its_own_length():
    """February of leap years and December are no special cases."""
    assert month_of(seconds(2028, 2, 29, 23, 59, 59)).end == seconds(2028, 3, 1)
    assert month_of(seconds(2027, 2, 1)).end == seconds(2027, 3, 1)
    assert month_of(seconds(2026, 12, 31)).end == seconds(2027, 1, 1)


def test_a_period_ends_where_the_next_begins():
    """The first second of a day or a month belongs to it, and to no other."""
    midnight = seconds(2026, 4, 1)
    for period_of in (day_of, month_of):
        assert midnight in period_of(midnight)
        assert midnight not in period_of(midnight - 0.001)
    assert in_words(midnight) == "2026-04-01T00:00:00Z"


@CALM
@given(st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)))
def test_periods_are_those_of_the_calendar(moment):
    """Every moment lies in its day and its month, whose bounds are midnights."""
    aware = moment.replace(tzinfo=UTC)
    day, month = day_of(aware.timestamp()), month_of(aware.timestamp())
    midnight = aware.replace(hour=0, minute=0, second=0, microsecond=0)
    first = midnight.replace(day=1)
    assert (day.start, day.end) == (midnight.timestamp(), (midnight + timedelta(days=1)).timestamp())
    assert (month.start, month.end) == (
        first.timestamp(),
        (first + timedelta(days=32)).replace(day=1).timestamp(),
    )
