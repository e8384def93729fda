"""Usage is exact through kills: what the database says, against what clients were answered.

    python -m benchmarks.usage_proof

Threads ask a real service whose models answer at once, streamed and whole in turn, while the whole service is killed
with SIGKILL at random moments and started again in the same state folder: with SQLite, and with a PostgreSQL of its
own, which is stopped or crashed and started again at each kill. Each thread names itself and the service's
start as the `user`, so that every sum is compared on its own: it may exceed what was answered by the one request that
was in flight when the service was killed, and by nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import psutil
from sqlalchemy import select

from benchmarks.harness import record
from database.connect import Database, sqlite_url
from database.tables import USAGE_DAYS, USAGE_USERS
from tests import postgres
from tests.e2e.gunicorn_process import free_port

TITLE = "Usage through kills"
APP = "tests.e2e.answering_app:app"
THREADS = 8
INPUT_TOKENS, OUTPUT_TOKENS = 7, 5  # of every answer of these models
ANSWERING_SECONDS = 60.0


@dataclass(frozen=True)
class Proof:
    """answered: requests whose answers came whole; in_flight: those that a kill cut off; recorded: in the database.

    lost, extra: requests that the database lacks, or has without one in flight; of both there must be none.
    """

    database: str
    requests: int
    kills: int
    database_restarts: int
    answered: int
    in_flight: int
    recorded: int
    lost: int
    extra: int
    wrong_sums: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Return whether the database is exact."""
        return not (self.lost or self.extra or self.wrong_sums)


class Service:
    """A real service, killed and started again on the same port and in the same folder."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder, self._settings = folder, settings
        self.starts = -1
        self.port = free_port()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.starts += 1
        here = self._folder / f"start-{self.starts}"
        here.mkdir()
        limits = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "LOG_LEVEL": "WARNING"}
        where = {"HOST": "127.0.0.1", "PORT": str(self.port), "ENV_FILE": os.devnull}
        with (here / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "gunicorn_config.py", APP],
                cwd=record.ROOT,
                env={**os.environ, **limits, **where, **self._settings},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        until(self._ready)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/api/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """End every process of it at once."""
        master = psutil.Process(self._process.pid)
        processes = [master, *master.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 30)
        self._process.wait()


def until(condition: Callable[[], object], patience: float = ANSWERING_SECONDS) -> None:
    """Wait until the condition holds. Raises TimeoutError after `patience` seconds."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing came within {patience:g} s")
        time.sleep(0.02)


class Clients:
    """Threads that ask until so many requests were answered."""

    def __init__(self, service: Service, wanted: int) -> None:
        self._service, self._wanted = service, wanted
        self._lock = threading.Lock()  # guards the counts
        self.answered: Counter[str] = Counter()
        self.in_flight: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        """How many requests were answered."""
        with self._lock:
            return self.answered.total()

    def have(self, number: float) -> bool:
        """Return whether so many requests were answered."""
        return self.count >= number

    def wait(self) -> None:
        """Wait for the end of all threads."""
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        connection, asked = self._connected(), 0
        while not self.have(self._wanted):
            user = f"thread-{number}-start-{self._service.starts}"
            if connection is None:
                time.sleep(0.02)
                connection = self._connected()
                continue
            asked += 1
            try:
                whole = _answer(connection, user, stream=asked % 2 == 0)
            except (OSError, http.client.HTTPException):
                connection.close()
                connection, whole = None, False
            with self._lock:
                (self.answered if whole else self.in_flight)[user] += 1
        if connection is not None:
            connection.close()

    def _connected(self) -> http.client.HTTPConnection | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=30)
        try:
            connection.connect()
        except OSError:
            connection.close()
            return None
        return connection


def _answer(connection: http.client.HTTPConnection, user: str, stream: bool) -> bool:
    """Ask once; return whether the whole answer came. Raises OSError and HTTPException."""
    body = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}], "user": user, "stream": stream}
    head = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), head)
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, data
    return data.endswith(b"data: [DONE]\n\n") if stream else "choices" in json.loads(data)


def prove(requests: int, kills: int, folder: Path, server: postgres.Postgres | None = None, seed: int = 7) -> Proof:
    """Run it; return what came out."""
    began, chance = time.monotonic(), random.Random(seed)
    url = sqlite_url(folder / "avito-ai.db") if server is None else server.url
    service = Service(folder, STATE_DIR=str(folder / "state"), DATABASE_URL=url)
    try:
        clients, restarts = Clients(service, requests), 0
        for kill in range(kills):
            share = (kill + chance.random()) / kills
            until(partial(clients.have, share * requests), 600)
            if server is not None:
                server.stop("immediate" if kill % 2 else "fast")
                time.sleep(chance.random())
            service.kill()
            if server is not None:
                restarts += 1
                server.start()
            service.start()
        clients.wait()
        database = Database(url)
        recorded = _settled(database, clients)
    finally:
        service.kill()
    wrong = _wrong_sums(database)
    database.engine().dispose()
    return Proof(
        "sqlite" if server is None else "postgresql",
        requests,
        kills,
        restarts,
        clients.answered.total(),
        clients.in_flight.total(),
        sum(recorded.values()),
        sum(max(0, clients.answered[user] - recorded[user]) for user in clients.answered),
        sum(max(0, count - clients.answered[user] - clients.in_flight[user]) for user, count in recorded.items()),
        wrong,
        round(time.monotonic() - began, 1),
    )


def _settled(database: Database, clients: Clients) -> Counter[str]:
    """Return what is recorded for each user, once the service has added what was left behind."""
    until(lambda: _recorded(database).total() >= clients.answered.total(), ANSWERING_SECONDS)
    time.sleep(3)  # for what would be too much
    return _recorded(database)


def _recorded(database: Database) -> Counter[str]:
    with database.engine().connect() as connection:
        rows = connection.execute(select(USAGE_USERS.c.user, USAGE_USERS.c.requests))
        counts: Counter[str] = Counter()
        for user, requests in rows:
            counts[user] += requests
        return counts


def _wrong_sums(database: Database) -> int:
    """Return how many rows have tokens that are not those of their requests, or disagree with the users' sums."""
    with database.engine().connect() as connection:
        days = connection.execute(select(USAGE_DAYS)).mappings().all()
        users = connection.execute(select(USAGE_USERS)).mappings().all()
    wrong = [
        row
        for row in (*days, *users)
        if not row["failed"]
        and (row["input_tokens"], row["output_tokens"])
        != (INPUT_TOKENS * row["requests"], OUTPUT_TOKENS * row["requests"])
    ]
    agree = sum(row["requests"] for row in days) == sum(row["requests"] for row in users)
    return len(wrong) + (0 if agree else 1)


@contextmanager
def _maybe_postgres(wanted: bool) -> Iterator[postgres.Postgres | None]:
    with ExitStack() as stack:
        yield stack.enter_context(postgres.running()) if wanted else None


def main() -> int:
    """Run it with both databases, write the results, and return 1 unless both are exact."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000, help="requests that are answered (default 10,000)")
    parser.add_argument("--kills", type=int, default=10, help="kills of the service (default 10)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    asked = parser.parse_args()
    facts, proofs = record.facts(("sqlalchemy", "psycopg", "gunicorn")), []
    for with_postgres in (False, True):
        with tempfile.TemporaryDirectory() as folder, _maybe_postgres(with_postgres) as server:
            proofs.append(prove(asked.requests, asked.kills, Path(folder), server))
    header = ("database", "kills", "its restarts", "answered", "in flight when killed", "recorded", "lost", "extra")
    rows = [[proof.database, *(f"{value:,}" for value in list(asdict(proof).values())[2:9])] for proof in proofs]
    table = record.table(header, rows)
    path = record.write("usage_proof", facts, {"proofs": list(map(asdict, proofs))}, TITLE, [table], asked.results)
    print(path.read_text(encoding="utf-8"))
    return 0 if all(proof.holds for proof in proofs) else 1


if __name__ == "__main__":
    sys.exit(main())
