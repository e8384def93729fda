"""What was recorded is in the database once: through faults of the disk, of the database and of the process."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import OperationalError

from database import audit
from database.connect import DatabaseError
from database.tables import USAGE_ACCOUNTS, USAGE_DAYS, USAGE_HOURS, USAGE_JOURNALS, USAGE_USERS
from tests.threads import together
from tests.usage.conftest import NOON
from usage import store
from usage.journal import Journal
from usage.recorder import Recorder
from usage.sums import FIGURES

DAY = 86_400


@pytest.fixture
def recorder(database, tmp_path):
    """A recorder with a journal, whose thread does not run."""
    recorder = Recorder(database.engine, tmp_path, clock=lambda: NOON)
    recorder._journal = Journal(tmp_path / "usage")
    return recorder


def rows(database, table):
    """Return the rows of a table."""
    with database.engine().connect() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]


def total(database, figure="requests", table=USAGE_DAYS):
    """Return the sum of a column."""
    with database.engine().connect() as connection:
        return connection.execute(select(func.sum(table.c[figure]))).scalar() or 0


def test_figures_are_added_up_by_period_account_and_model(database, recorder, new_record):
    """Hours and days of each account and model have the sums of their records; users are under their account."""
    recorder.record(new_record(account="key:a", name="Office", user="ann", images=2, cost=30))
    recorder.record(new_record(account="key:a", name="Office", user="ben", failure="model_error"))
    recorder.record(new_record(account="key:a", model="avision", at=NOON + 3600))
    recorder.record(new_record(account="key:b", at=NOON + DAY))
    assert recorder.catch_up()
    found = {(row["period"], row["account"], row["model"]): row for row in rows(database, USAGE_DAYS)}
    today = int(NOON // DAY) * DAY
    assert set(found) == {(today, "key:a", "avibe"), (today, "key:a", "avision"), (today + DAY, "key:b", "avibe")}
    assert [found[today, "key:a", "avibe"][name] for name in FIGURES] == [2, 1, 14, 10, 0, 2, 2000, 30]
    assert len(rows(database, USAGE_HOURS)) == 3
    assert {(row["user"], row["requests"]) for row in rows(database, USAGE_USERS)} == {("ann", 1), ("ben", 1)}
    assert rows(database, USAGE_ACCOUNTS) == [{"account": "key:a", "name": "Office", "at": NOON}]


def test_the_database_gets_each_record_once(database, recorder, new_record):
    """Storing again adds nothing; what comes later is added to what is there."""
    for number in range(3):
        recorder.record(new_record())
        recorder.catch_up()
        recorder.catch_up()
        assert total(database) == number + 1


@pytest.mark.parametrize("with_journal", [True, False])
def test_a_commit_whose_answer_was_lost_is_not_repeated(database, recorder, new_record, monkeypatch, with_journal):
    """The position in the database tells what it has, whatever the writer was told; of records in memory as well."""
    add = store.add
    if not with_journal:
        recorder._journal = None

    def lost(*arguments):
        add(*arguments)
        raise OperationalError("COMMIT", {}, Exception("the connection is gone"))

    recorder.record(new_record())
    monkeypatch.setattr(store, "add", lost)
    with pytest.raises(OperationalError):
        recorder.catch_up()
    monkeypatch.undo()
    recorder.record(new_record())
    recorder.catch_up()
    assert total(database) == 2


def test_what_a_process_left_is_added_by_the_next(database, tmp_path, new_record):
    """A journal that was stored in part is stored to its end, its files and its row go."""
    dead = Recorder(database.engine, tmp_path)
    dead._journal = journal = Journal(tmp_path / "usage")
    dead.record(new_record())
    dead.catch_up()
    dead.record(new_record())
    os.close(journal._held)  # as its process's end does
    alive = Recorder(database.engine, tmp_path, clock=lambda: NOON)
    assert alive._pass()
    assert total(database) == 2
    assert list((tmp_path / "usage").iterdir()) == []
    assert rows(database, USAGE_JOURNALS) == []


def test_a_process_that_recorded_nothing_leaves_nothing(database, tmp_path, caplog):
    """It ended before its first answer: the next one removes its lock, and nothing is said to be away."""
    os.close(Journal(tmp_path / "usage")._held)
    assert Recorder(database.engine, tmp_path, clock=lambda: NOON)._pass()
    assert list((tmp_path / "usage").iterdir()) == []
    assert caplog.records == []


def test_a_fault_of_our_own_is_not_the_databases(tmp_path, caplog):
    """The log says what it was and where, so that nobody looks for a database that is there."""

    def broken():
        raise ZeroDivisionError(" ".join(["of", "a", "request"]))

    assert not Recorder(broken, tmp_path)._pass()
    (record,) = caplog.records
    assert "away" not in record.message
    assert "ZeroDivisionError" in record.message
    assert "in broken" in record.message
    assert "of a request" not in record.message


class Away:
    """A database that is away until it is told."""

    def __init__(self, database):
        self.database, self.away = database, True

    def engine(self):
        if self.away:
            raise DatabaseError("away")
        return self.database.engine()


@pytest.mark.parametrize("with_journal", [True, False])
def test_nothing_is_lost_while_the_database_is_away(database, tmp_path, new_record, with_journal):
    """Records are taken as before, wait in the journal or in memory, and are added once the database is back."""
    away = Away(database)
    recorder = Recorder(away.engine, tmp_path, clock=lambda: NOON + 60)
    recorder._journal = Journal(tmp_path / "usage") if with_journal else None
    for _ in range(3):
        recorder.record(new_record())
        assert not recorder._pass()
    figures = recorder.figures()
    assert (figures.recorded, figures.database_failures, figures.lag) == (3, 3, 60)
    assert bool(figures.waiting_bytes) is with_journal
    assert figures.in_memory == (0 if with_journal else 3)
    away.away = False
    assert recorder._pass()
    assert total(database) == 3
    assert (recorder.figures().lag, recorder.figures().in_memory, recorder.figures().waiting_bytes) == (0, 0, 0)


def test_a_full_disk_costs_no_record(database, tmp_path, new_record, caplog):
    """What the journal cannot take waits in memory; that is counted, and logged once."""

    def full(file, data):
        raise OSError(28, "no space left")

    recorder = Recorder(database.engine, tmp_path)
    recorder._journal = Journal(tmp_path / "usage", write=full)
    for _ in range(3):
        recorder.record(new_record())
    assert recorder.figures().journal_failures == 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    recorder.catch_up()
    recorder.record(new_record())
    recorder.catch_up()
    assert total(database) == 4


def test_memory_is_bounded(database, tmp_path, new_record):
    """With neither a disk nor a database, accounts beyond a number are counted as lost."""
    recorder = Recorder(Away(database).engine, tmp_path)
    recorder._memory._most_rows = 10
    for number in range(100):
        recorder.record(new_record(account=f"192.0.2.{number}"))
    figures = recorder.figures()
    assert figures.lost + figures.in_memory == 100
    assert 1 <= figures.in_memory <= 10


def test_full_memory_still_adds_to_what_is_there(database, tmp_path, new_record):
    """No account loses figures because of the users of another; further users are counted together."""
    recorder = Recorder(database.engine, tmp_path)
    recorder._memory._most_rows = 20
    recorder.record(new_record(account="key:a"))
    for number in range(40):
        recorder.record(new_record(account="key:b", user=f"u{number}"))
    recorder.record(new_record(account="key:a"))
    assert recorder.figures().lost == 0
    recorder.catch_up()
    assert (total(database), total(database, table=USAGE_USERS)) == (42, 40)
    users = {row["user"]: row["requests"] for row in rows(database, USAGE_USERS)}
    assert len(users) <= 20
    assert users[store.OTHERS] == 41 - len(users)


def test_a_folder_that_cannot_be_written_is_told_once(database, tmp_path, new_record, caplog):
    """A read-only container serves as before; the figures go from memory to the database."""
    (tmp_path / "file").write_text("")
    recorder = Recorder(database.engine, tmp_path / "file")
    recorder.begin()
    recorder.record(new_record())
    recorder.end()
    assert total(database) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_end_stores_what_is_left(database, tmp_path, new_record):
    """A service that stops leaves nothing for its successor to add."""
    recorder = Recorder(database.engine, tmp_path)
    recorder.begin()
    recorder.begin()
    for _ in range(5):
        recorder.record(new_record())
    recorder.end()
    assert total(database) == 5


def test_several_processes_add_to_the_same_rows(database, tmp_path, new_record):
    """Copies that store at the same time lose nothing of each other."""
    recorders = [Recorder(database.engine, tmp_path, clock=lambda: NOON) for _ in range(4)]
    for recorder in recorders:
        recorder.begin()

    def work(recorder):
        for number in range(25):
            recorder.record(new_record(account=f"key:{number % 5}"))
            if number % 10 == 0:
                recorder.catch_up()

    together(*(partial(work, recorder) for recorder in recorders))
    for recorder in recorders:
        recorder.end()
    assert total(database) == total(database, table=USAGE_HOURS) == 100


def test_addresses_and_users_are_bounded_by_period(database, tmp_path, new_record):
    """Those beyond are counted together, keys never; one that is known keeps its own row."""
    recorder = Recorder(database.engine, tmp_path, bounds=store.Bounds(addresses=3, users=2))
    for number in range(6):
        recorder.record(new_record(account=f"2001:db8::{number}"))
        recorder.record(new_record(account=f"key:{number}"))
        recorder.record(new_record(account="key:0", user=f"u{number}"))
        recorder.catch_up()
    recorder.record(new_record(account="2001:db8::0", user="u0"))
    recorder.catch_up()
    days = {row["account"]: row["requests"] for row in rows(database, USAGE_DAYS)}
    assert sum(days.values()) == 19
    assert {name: n for name, n in days.items() if not name.startswith("key:")} == {
        "2001:db8::0": 2,
        "2001:db8::1": 1,
        "2001:db8::2": 1,
        store.OTHERS: 3,
    }
    users = {(row["account"], row["user"]): row["requests"] for row in rows(database, USAGE_USERS)}
    assert users == {("key:0", "u0"): 1, ("key:0", "u1"): 1, ("key:0", store.OTHERS): 4, ("2001:db8::0", "u0"): 1}


def test_the_bounds_hold_within_one_batch_too(database, tmp_path, new_record):
    """All that comes at once is bounded as what comes one by one."""
    recorder = Recorder(database.engine, tmp_path, bounds=store.Bounds(addresses=3, users=2))
    for number in range(9):
        recorder.record(new_record(account=f"192.0.2.{number}", user=f"u{number}"))
    recorder.catch_up()
    days = {row["account"]: row["requests"] for row in rows(database, USAGE_DAYS)}
    assert (len(days), days[store.OTHERS]) == (4, 6)
    assert total(database, table=USAGE_USERS) == 9


@pytest.mark.parametrize("long", ["x" * 5000, "\0", "\ud800", "Ж" * 500, "'; DROP TABLE usage_days; --"])
def test_any_text_is_counted(database, recorder, new_record, long):
    """No name that a client or an issuer chooses stops the figures."""
    recorder.record(new_record(account=f"jwt:{long}", name=long, user=long, model=long))
    recorder.catch_up()
    assert total(database) == total(database, table=USAGE_USERS) == 1


def test_what_is_old_is_forgotten(database, tmp_path, new_record):
    """Hours, days with users, names and positions, and the audit trail: each by its own setting."""
    recorder = Recorder(database.engine, tmp_path, store.Retention(400, 31, 90), clock=lambda: NOON)
    for days in (0, 30, 32, 89, 91, 399, 401):
        recorder.record(new_record(at=NOON - days * DAY, account=f"key:{days}", name="n", user="u"))
        audit.record(database.engine(), f"{days}", "", "key.create", clock=lambda at=NOON - days * DAY: at)
    assert recorder._pass()
    assert {row["account"] for row in rows(database, USAGE_HOURS)} == {"key:0", "key:30"}
    assert [act.actor for act in audit.acts(database.engine())] == ["89", "32", "30", "0"]
    kept = {"key:0", "key:30", "key:32", "key:89", "key:91", "key:399"}
    for table in (USAGE_DAYS, USAGE_USERS, USAGE_ACCOUNTS):
        assert {row["account"] for row in rows(database, table)} == kept


def test_a_locked_database_is_waited_for(database, recorder, new_record):
    """Another writer of SQLite delays the figures and loses none."""
    recorder.record(new_record())
    database.engine()
    waits = threading.Event()
    with database.engine().connect() as other:
        other.execute(text("BEGIN IMMEDIATE"))
        event.listen(
            database.engine(), "before_cursor_execute", lambda *given: waits.set() if "INSERT" in given[2] else None
        )
        thread = threading.Thread(target=recorder.catch_up)
        thread.start()
        assert waits.wait(60)
        assert not recorder._storing.acquire(timeout=0.2)
        other.rollback()
        thread.join(60)
    assert total(database) == 1


def test_a_journal_that_cannot_be_read_keeps_no_other_back(database, tmp_path, new_record, caplog):
    """What another process left is added all the same; the log says it once, and it is tried again."""
    folder = tmp_path / "usage"
    journals = [Journal(folder), Journal(folder)]
    broken, whole = sorted(journals, key=lambda journal: journal.name)  # as they are looked at
    (folder / f"{broken.name}.0.log").mkdir()
    whole.append(new_record())
    for journal in journals:
        os.close(journal._held)
    recorder = Recorder(database.engine, tmp_path, clock=lambda: NOON)
    for _ in range(2):
        recorder._next_search = 0.0
        assert recorder._pass()
    assert total(database) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_answer_that_cannot_be_settled_keeps_nothing_back(database, recorder, new_record, caplog):
    """It is given up, the log says so, and what else was recorded is stored."""
    recorder.defer(lambda: 1 / 0)
    recorder.record(new_record())
    assert recorder.catch_up()
    assert recorder.catch_up()
    assert total(database) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_answer_is_settled_while_the_database_hangs(tmp_path, new_record, monkeypatch):
    """What it held back of a budget is free again, however long the database takes."""
    monkeypatch.setattr("usage.recorder.PASS_SECONDS", 0.01)
    hangs, answers, settled = threading.Event(), threading.Event(), threading.Event()

    def engine():
        hangs.set()
        assert answers.wait(60)
        raise DatabaseError("away")

    recorder = Recorder(engine, tmp_path)
    recorder.begin()
    assert hangs.wait(60)
    recorder.defer(lambda: settled.set() or True)
    assert settled.wait(60)
    answers.set()
    recorder.end()


def test_an_answer_that_ends_with_the_process_is_recorded(database, tmp_path, new_record):
    """The end waits for what is not settled yet, and stores it."""
    recorder, calls = Recorder(database.engine, tmp_path), []

    def settle():
        calls.append(recorder._ending.is_set())
        if sum(calls) < 3:
            return False
        recorder.record(new_record())
        return True

    recorder.begin()
    recorder.defer(settle)
    recorder.end(60)
    assert total(database) == 1


def test_the_end_does_not_wait_for_ever_for_an_answer(database, tmp_path, new_record):
    """What was recorded is stored in time."""
    recorder = Recorder(database.engine, tmp_path)
    recorder.begin()
    recorder.record(new_record())
    recorder.defer(lambda: False)
    recorder.end(0.1)
    recorder._thread.join(60)
    assert total(database) == 1
