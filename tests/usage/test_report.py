"""Reports are read and written some lines at a time, and are the same as if they were there as a whole."""

import pytest

from usage.periods import DAY
from usage.report import LINES_AT_ONCE, Question, report
from usage.store import add
from usage.sums import summed

FIRST = 20_000 * DAY
ALL = FIRST, FIRST + 9 * DAY


@pytest.fixture
def used(engine, new_record):
    """Three days of more accounts than are read at once, of which every other one has a name."""
    accounts = [f"key:{number:04d}" for number in range(LINES_AT_ONCE + 50)]
    for day in range(3):
        records = [
            new_record(account=one, name=f"name of {one}" if int(one[4:]) % 2 else "", at=FIRST + day * DAY, user=one)
            for one in accounts
        ]
        assert add(engine, "journal", day, day + 1, summed(records))
    return accounts


def parts_of(engine, question):
    """Return how many lines were written at a time, the lines, and the report."""
    sizes, lines = [], []

    def write(some):
        sizes.append(len(some))
        lines.extend(some)
        return [len(some)]

    found = report(engine, question, write)
    assert found.lines == sizes
    return sizes, lines, found


def test_lines_are_written_some_at_a_time(engine, used):
    """In order and with their names, however they fall apart; the sums are of all."""
    sizes, lines, found = parts_of(engine, Question(("day", "account"), *ALL))
    assert max(sizes) == LINES_AT_ONCE
    assert [line.parts for line in lines] == [
        {"day": FIRST + day * DAY, "account": account} for day in range(3) for account in used
    ]
    assert {line.name for line in lines if int(line.parts["account"][4:]) % 2 == 0} == {""}
    assert all(line.name == f"name of {line.parts['account']}" for line in lines if line.name)
    assert (found.more, found.total["requests"]) == (False, len(lines))


@pytest.mark.parametrize("limit", [1, LINES_AT_ONCE - 1, LINES_AT_ONCE, LINES_AT_ONCE + 1])
@pytest.mark.parametrize("by", [("account",), ("user",)])
def test_a_page_ends_where_it_is_to_end(engine, used, by, limit):
    """Also at the end of what is read at once; the next page begins behind it."""
    _, lines, found = parts_of(engine, Question(by, *ALL, limit=limit))
    assert ([line.parts[by[0]] for line in lines], found.more) == (used[:limit], True)
    _, rest, found = parts_of(engine, Question(by, *ALL, limit=1000, offset=limit))
    assert ([line.parts[by[0]] for line in rest], found.more) == (used[limit:], False)


def test_the_last_page_is_the_last_one(engine, used):
    """One that ends with the last line has none behind it."""
    for limit in (len(used), len(used) + 1):
        assert not report(engine, Question(("account",), *ALL, limit=limit), list).more
    assert report(engine, Question(("account",), *ALL, offset=len(used)), list).lines == []


def test_a_report_by_nothing_has_no_lines(engine, used):
    """Only the sums."""
    found = report(engine, Question((), *ALL), list)
    assert (found.lines, found.total["requests"]) == ([], 3 * len(used))
