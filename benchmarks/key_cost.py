"""Measure what a client's key costs a request: one service that asks nobody, and one that asks for keys or tokens.

    python -m benchmarks.key_cost [--rounds N] [--requests N] [--keys N] [--results FOLDER]

Two Gunicorns with the service's configuration and the demo models, rate limits off, answer the same refused request in
rotation, so that other work of the machine affects each alike: without a key, with a key among `--keys` others in the
database, with a token (HS256), and with a key that the open service does not read, so that both have as much to do.
Each has a connection of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jwt
from sqlalchemy import insert
from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.servers import demo, running
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.hooks_cost import BAD_BODY, KeepAlive, Samples
from database.connect import Database, sqlite_url
from database.revisions import advance
from database.tables import API_KEYS
from keys.registry import REVISION, Actor, KeyRegistry
from keys.secret import new_key

TARGET_MS = 0.3
SECRET = "of-a-benchmark-alone-and-nobody-else"  # pragma: allowlist secret
WITHOUT, KEY, UNREAD, TOKEN = "without a key", "with a key", "with a key that is not read", "with a token"
PACKAGES = ("flask", "werkzeug", "gunicorn", "sqlalchemy", "pyjwt")


def request_of(headers: str = "") -> bytes:
    """Return a request that is refused with 400 once its body is read. headers: further lines of its head."""
    head = f"POST /api/v1/text/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(BAD_BODY)}\r\n\r\n".encode() + BAD_BODY


def filled(folder: Path, count: int) -> str:
    """Put so many keys into a database in this folder; return the text of one that was made among them."""
    database = Database(sqlite_url(folder / "avito-ai.db"))
    _, text = KeyRegistry(database).make(Actor("benchmark"), "measured")
    others = [new_key() for _ in range(count - 1)]
    with database.engine().begin() as connection:
        row = {"created_at": 1, "revision": advance(connection, REVISION)}
        rows = [row | {"id": key.id, "hash": key.hash, "name": key.id} for key in others]
        if rows:
            connection.execute(insert(API_KEYS), rows)
    return text


async def measure(
    asked: Mapping[str, tuple[int, bytes]], rounds: int, requests: int, tick: Callable[[], object]
) -> dict[str, Samples]:
    """Send each request again and again, in another order each round; the first round is not counted.

    asked: port and request, by name.
    """
    loop = asyncio.get_running_loop()
    connections = {
        name: (await loop.create_connection(KeepAlive, "127.0.0.1", port))[1] for name, (port, _) in asked.items()
    }
    names, samples = list(asked), {name: Samples() for name in asked}
    for number in range(rounds + 1):
        taken: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(requests):
            for at in range(len(names)):
                name = names[(turn + at) % len(names)]
                began = time.perf_counter()
                status = await connections[name].ask(asked[name][1])
                taken[name].append(time.perf_counter() - began)
                if status != 400:
                    raise RuntimeError(f"The request {name} was answered {status}, and 400 was expected.")
        for name in names if number else ():
            samples[name].add(taken[name], sum(taken[name]))
        tick()
    for connection in connections.values():
        connection.close()
    return samples


def summary(samples: Mapping[str, Samples]) -> dict[str, dict[str, float]]:
    """Return the figures of each request; added_*: above the one without a key, with its spread over the rounds."""
    bare, figures = samples[WITHOUT], {}
    for name, own in samples.items():
        added = [(a - b) * 1e3 for a, b in zip(own.round_medians, bare.round_medians, strict=True)]
        figures[name] = {
            "requests": len(own.latencies),
            "median_ms": statistics.median(own.latencies) * 1e3,
            "added_median_ms": (statistics.median(own.latencies) - statistics.median(bare.latencies)) * 1e3,
            "added_median_lowest_round_ms": min(added),
            "added_median_highest_round_ms": max(added),
        }
    return figures


def verdict(figures: Mapping[str, Mapping[str, float]]) -> Verdict:
    """Return the verdict on the most that is added."""
    worst = max(own["added_median_ms"] for name, own in figures.items() if name != WITHOUT)
    return judged(f"at most {TARGET_MS:g} ms added at the median", worst <= TARGET_MS, f"{worst:.2f} ms at most")


def table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figures as a Markdown table."""
    rows = []
    for name, own in figures.items():
        spread = f"{own['added_median_lowest_round_ms']:.2f} to {own['added_median_highest_round_ms']:.2f}"
        added = "" if name == WITHOUT else f"{own['added_median_ms']:.2f} ({spread})"
        rows.append((name, f"{own['median_ms']:.2f}", added))
    return record.table(("request", "median, ms", "added at the median, ms (lowest to highest round)"), rows)


def main() -> int:
    """Measure, print and write the results; return the exit status, 1 if the target is missed."""
    parser = argparse.ArgumentParser(description="Measure what a client's key costs a request.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds (default 10)")
    parser.add_argument("--requests", type=int, default=400, help="requests of each kind per round (default 400)")
    parser.add_argument("--keys", type=int, default=100_000, help="keys in the database (default 100,000)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    asked = parser.parse_args()
    found = record.facts(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        key = filled(Path(folder), asked.keys)
        token = jwt.encode({"sub": "benchmark", "exp": int(time.time()) + 86_400}, SECRET, "HS256")
        server = demo("service", "app_production:app")
        guarded = {"AUTH": "keys,jwt", "STATE_DIR": folder, "JWT_SECRET_KEY": SECRET}
        asking = replace(server, env={**server.env, **guarded})
        nowhere = Path(os.devnull)
        with running(server, nowhere) as one, running(asking, nowhere) as other:
            ports = [int(address.rpartition(":")[2]) for address in (one, other)]
            requests = {
                WITHOUT: (ports[0], request_of()),
                KEY: (ports[1], request_of(f"Authorization: Bearer {key}\r\n")),
                UNREAD: (ports[0], request_of(f"Authorization: Bearer {key}\r\n")),
                TOKEN: (ports[1], request_of(f"Authorization: Bearer {token}\r\n")),
            }
            with tqdm(total=asked.rounds + 1, unit="round", disable=None) as bar:
                figures = summary(asyncio.run(measure(requests, asked.rounds, asked.requests, bar.update)))
    written = {"rounds": asked.rounds, "requests": asked.requests, "keys": asked.keys, "figures": figures}
    parts = [f"{asked.keys:,} keys are in the database.", table(figures), str(verdict(figures))]
    path = record.write("key_cost", found, written, "What a client's key costs", parts, asked.results)
    print(path.read_text(encoding="utf-8"))
    return exit_status([verdict(figures).word])


if __name__ == "__main__":
    sys.exit(main())
