"""Keys' and usage's database in a real PostgreSQL: migrations, bounds, what counts once, and its restart."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app_production import create_app
from config import load_settings
from database import audit
from database.connect import MIGRATION_LOCK, Database, DatabaseError, migrate, open_database, patient
from database.postgres import ANSWER_SECONDS
from database.tables import METADATA, USAGE_DAYS, USAGE_USERS
from keys.account import Account, Limits
from keys.registry import Actor, KeyRegistry, UnknownKey
from keys.store import KeyStore
from routes.services import services
from tests import postgres
from tests.e2e.gunicorn_process import until
from tests.fakes import PATIENCE
from tests.threads import together
from usage.budget_warnings import Warned, claim_in
from usage.budgets import Budgets
from usage.charts import SPANS, Choice, charted
from usage.database_totals import DatabaseTotals
from usage.prices import Prices
from usage.record import UsageRecord
from usage.recorder import Recorder
from usage.report import Question, report
from usage.store import Bounds
from usage.totals import Totals

BY = Actor("admin")
LOCK = f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
WAITED = f"{WAITS} AND clock_timestamp() - waitstart > '1.2 s'"  # longer than the test lets a statement take
pytestmark = [pytest.mark.needs("postgresql"), pytest.mark.slow]


@pytest.fixture(scope="module")
def server():
    """One PostgreSQL for the tests of this module."""
    with postgres.running() as server:
        yield server


@pytest.fixture
def database(server):
    """Its database, empty."""
    database = Database(server.url)
    METADATA.drop_all(database.engine())
    with database.engine().begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    database.engine().dispose()
    database = Database(server.url)
    yield database
    database.engine().dispose()


@pytest.fixture
def copies(server, database):
    """Return keys as four other copies of the service have them."""
    others = [Database(server.url) for _ in range(4)]
    yield [KeyRegistry(other) for other in others]
    for other in others:
        other.engine().dispose()


def records(number, **fields):
    """Return records of one account."""
    made = {"account": "key:a", "model": "avibe", "protocol": "api", "input_tokens": 7, "at": 1_767_268_800.0, **fields}
    return [UsageRecord(f"r{one}", **made) for one in range(number)]


def counted(database, table=USAGE_DAYS):
    """Return how many requests the database has."""
    with database.engine().connect() as connection:
        return int(connection.execute(select(func.sum(table.c.requests))).scalar() or 0)


def test_the_migrations_make_the_tables_of_the_code(database):
    """What the migrations build and what the code declares is the same here too."""
    with database.engine().connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_a_server_that_does_not_answer_holds_nobody_up(database):
    """The statement fails after a bound of the client's own, and the next one has another connection."""
    with database.engine().connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "10s"
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.connection.driver_connection.patience = 0.1
        with pytest.raises(OperationalError, match="does not answer"):
            connection.exec_driver_sql("SELECT pg_sleep(3600)")
    assert counted(database) == 0


def test_what_may_take_longer_is_waited_for(database):
    """Of one transaction; the bounds of the next are as before."""
    with database.engine().connect() as connection:
        own = connection.connection.driver_connection
        with patient(connection, 60):
            assert (connection.exec_driver_sql("SHOW statement_timeout").scalar(), own.patience) == ("1min", 60)
        connection.rollback()
        assert (connection.exec_driver_sql("SHOW statement_timeout").scalar(), own.patience) == ("10s", ANSWER_SECONDS)


def test_copies_that_start_together_migrate_once(server, database):
    """Several copies that find no tables all end up with them."""
    METADATA.drop_all(database.engine())
    with database.engine().begin() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    copies, failures = [Database(server.url) for _ in range(6)], []

    def start(copy):
        try:
            copy.engine().dispose()
        except DatabaseError as error:
            failures.append(error)

    together(*(partial(start, copy) for copy in copies))
    assert failures == []


def test_several_copies_add_to_the_same_rows(database, tmp_path):
    """Copies that store at the same time lose nothing of each other, and lock in one order."""
    recorders = [Recorder(database.engine, tmp_path / str(number)) for number in range(4)]

    def work(recorder):
        for number, record in enumerate(records(60)):
            recorder.record(
                UsageRecord(**{**_fields(record), "account": f"key:{number % 7}", "user": f"u{number % 5}"})
            )
            if number % 3 == 0:
                recorder.catch_up(timeout=60)
        recorder.catch_up(timeout=60)

    together(*(partial(work, recorder) for recorder in recorders))
    assert counted(database) == counted(database, USAGE_USERS) == 240


def _fields(record):
    return {name: getattr(record, name) for name in UsageRecord.__slots__}


@pytest.mark.parametrize(
    "text", ["x" * 5000, "\0", "\ud800", "Ж" * 500, "'; DROP TABLE usage_days; --", "\U0001f600" * 200]
)
def test_any_text_is_counted(database, tmp_path, text):
    """No text that a client chooses is refused by the database."""
    recorder = Recorder(database.engine, tmp_path)
    recorder.record(records(1, account=f"jwt:{text}", name=text, model=text, user=text)[0])
    assert recorder.catch_up()
    assert counted(database) == counted(database, USAGE_USERS) == 1
    audit.record(database.engine(), text, text, text, text, {"note": text})
    assert len(audit.acts(database.engine())) == 1


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"])
def test_what_no_database_holds_is_not_found(database, text):
    """Whoever asks for it is told that there is none, and not that the database is away."""
    registry = KeyRegistry(database)
    assert registry.page(text, text, 10) == []
    with pytest.raises(UnknownKey):
        registry.find(text)
    with pytest.raises(UnknownKey):
        registry.disable(BY, text)
    assert report(database.engine(), Question(("day",), 0, 10**10, account=text, model=text), list).lines == []
    assert charted(database.engine(), Choice(SPANS["month"], text, text), time.time()).accounts == []


def test_a_report_is_the_same_as_of_sqlite(database, tmp_path):
    """Sums are whole numbers, also of PostgreSQL's decimals, and lines come in order."""
    recorder = Recorder(database.engine, tmp_path, bounds=Bounds(addresses=1, users=1))
    for record in [
        *records(2, name="Office", cost=2**40),
        *records(3, account="192.0.2.1"),
        *records(1, account="192.0.2.2"),
    ]:
        recorder.record(record)
    recorder.catch_up()
    found = report(database.engine(), Question(("account",), 0, 2**40), list)
    assert [(line.parts["account"], line.name, line.figures["requests"]) for line in found.lines] == [
        ("(others)", "", 1),
        ("192.0.2.1", "", 3),
        ("key:a", "Office", 2),
    ]
    assert found.total["cost"] == 2**41


def test_a_restart_of_the_server_loses_nothing(server, database, tmp_path):
    """Records wait while the server is down, and each counts once when it is back, whether it stopped or crashed."""
    recorder = Recorder(database.engine, tmp_path)
    recorder.begin()
    for how in ("fast", "immediate"):
        for record in records(20):
            recorder.record(record)
        server.stop(how)
        for record in records(20):
            recorder.record(record)
        with pytest.raises((SQLAlchemyError, DatabaseError)):
            recorder.catch_up(timeout=60)
        server.start()
    recorder.end(timeout=60)
    assert recorder.catch_up(timeout=60)
    assert counted(database) == 80


def test_budgets_count_each_answer_once_while_it_is_stored(database, tmp_path):
    """Whatever is committed between and while totals are read, an account has used what it was answered."""
    recorder, noon = Recorder(database.engine, tmp_path), 1_767_268_800.0
    totals = Totals(DatabaseTotals(database.engine, lambda: recorder.journals), clock=lambda: noon)
    budgets, account = Budgets(totals, Prices(None)), Account("key:a", limits=Limits(tokens_per_day=10**9))
    budgets.check(account)
    stored, ending = threading.Event(), threading.Event()

    def store():
        while not ending.is_set():
            stored.set()
            recorder.catch_up()

    recorder.begin()
    thread = threading.Thread(target=store)
    thread.start()
    try:
        for number, record in enumerate(records(300), 1):
            budgets.count(account.id, recorder.record(record), 7, 0)
            if number % 5 == 0:
                totals.read()
                assert budgets.standings(account)[0].used == 7 * number
    finally:
        ending.set()
        thread.join(60)
        recorder.end()
    totals.read()
    assert (budgets.standings(account)[0].used, counted(database)) == (7 * 300, 300)


def test_another_copy_sees_each_change_of_a_key(database, copies):
    """Made, changed, rotated, disabled and deleted: the next look of a copy with connections of its own has it."""
    registry, copy = KeyRegistry(database), KeyStore(copies[0])
    copy.load()
    key, text = registry.make(BY, "billing", models=["avibe"], money_per_day=2_500_000)

    def seen(offered):
        copy.refresh()
        found = copy.find(offered, time.time())
        return None if found is None else (found.account.priority, found.state(time.time()))

    assert seen(text) == ("normal", "active")
    assert copy.find(text, time.time()).account == key.account
    registry.change(BY, "billing", priority="high")
    assert seen(text) == ("high", "active")
    _, rotated = registry.rotate(BY, "billing")
    assert [seen(text), seen(rotated)] == [None, ("high", "active")]
    registry.disable(BY, "billing")
    assert seen(rotated) == ("high", "disabled")
    registry.delete(BY, "billing")
    assert seen(rotated) is None
    assert not copy.failing


def test_keys_that_are_made_at_once_are_all_seen(database, copies):
    """A copy that looks while others commit misses none of them."""
    copy, done = KeyStore(KeyRegistry(database)), threading.Event()
    copy.load()

    def look():
        while not done.is_set():
            copy.refresh()

    def make(number):
        for key in range(8):
            copies[number].make(BY, f"client {number} {key}")

    looking = threading.Thread(target=look)
    looking.start()
    together(*(partial(make, number) for number in range(4)))
    done.set()
    looking.join(60)
    copy.refresh()
    assert len(copy) == 32


def test_one_copy_tells_of_a_budget(database):
    """Of all that see at once that a budget is nearly spent."""
    claim, told = claim_in(database.engine, lambda: 1_767_268_800.0), []
    warned = Warned("key:a", "tokens_per_day", 1_767_225_600, 80)
    barrier = threading.Barrier(6)

    def tell():
        barrier.wait()
        told.append(claim(warned))

    together(*[tell] * 6)
    assert sorted(told) == [False] * 5 + [True]


def test_a_cluster_that_was_made_in_the_locale_c_holds_texts(server, database):
    """Its encoding is SQL_ASCII, which names none; names of keys are UTF-8 all the same."""
    with database.engine().connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.exec_driver_sql(
            "CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
    plain = Database(server.url.replace("/postgres", "/plain"))
    KeyRegistry(plain).make(BY, name="Команда А")
    assert [key.name for key in KeyRegistry(plain).all()] == ["Команда А"]
    plain.engine().dispose()


def test_a_copy_that_starts_waits_while_another_one_migrates(server, database, monkeypatch):
    """For as long as a migration may take, not for as long as a statement."""
    monkeypatch.setattr("database.postgres.ANSWER_SECONDS", 1.0)
    with database.engine().begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        METADATA.drop_all(connection)
    second, ended = open_database(server.url), []
    with database.engine().begin() as connection:
        connection.exec_driver_sql(LOCK)
        thread = threading.Thread(target=lambda: ended.append(migrate(second)))
        thread.start()
        until(lambda: connection.exec_driver_sql(WAITED).scalar() == 1)
        assert not ended
    thread.join(PATIENCE)
    assert ended == [None]
    second.dispose()


def test_a_database_of_the_newest_version_is_used_while_another_copy_migrates(server, database):
    """Also while that one hangs."""
    second = open_database(server.url)
    with database.engine().begin() as connection:
        connection.exec_driver_sql(LOCK)
        migrate(second)
        assert connection.in_transaction()  # it was not waited for
    second.dispose()


def test_requests_have_an_answer_while_another_copy_migrates(server, database, models, machine, tmp_path, monkeypatch):
    """503 with the seconds to wait, of the API and of the operator's pages; then they have what they asked for."""
    monkeypatch.setattr("database.connect.OPEN_SECONDS", 0.01)
    environ = {"DATABASE_URL": server.url, "STATE_DIR": str(tmp_path)}
    app = create_app(load_settings(environ, None), models, machine)
    client, service = app.test_client(), services(app).database
    with database.engine().begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        METADATA.drop_all(connection)
    pages = ("/api/v1/usage", "/api/admin/usage", "/api/admin/audit", "/status/keys", "/status/usage", "/status/audit")
    with database.engine().begin() as connection:
        connection.exec_driver_sql(LOCK)
        service.begin()
        until(lambda: connection.exec_driver_sql(WAITS).scalar() == 1)
        answers = [client.get(page) for page in pages]
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(503, "10")}
    assert [answer.json["error"] for answer in answers[:3]] == ["not_ready"] * 3
    service._opening.result(PATIENCE)
    assert {client.get(page).status_code for page in pages} == {200}
    service.engine().dispose()
