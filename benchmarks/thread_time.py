"""Measure the processor time that requests and events of streams cost the threads of a loaded service.

    python -m benchmarks.thread_time [--seconds N] [--results FOLDER]

A real Gunicorn with the demo models and one compute thread serves streams of `/v1/chat/completions`, under loads with
few and with many events, and beside a greedy client. The kernel's own count of each thread is read (`schedstat`), so
the figures mean something on a machine that does other work too. `poller` is the worker's main thread; `engine` the
thread that took most; `requests` all others, the shared writer of streams among them. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import record
from benchmarks.proof.fairness import beside
from benchmarks.proof.service import Service, serving
from benchmarks.proof.traffic import Answer, ask, chat, closed_loop

CLIENTS = 200
HEADER = [
    "load",
    "finished",
    "refused",
    "events",
    "poller, s",
    "engine, s",
    "requests, s",
    "requests, ms each finished",
]


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds of the worker's threads."""

    poller: float
    engine: float
    requests: float


def thread_times(pid: int) -> dict[int, float]:
    """Return the processor seconds of each thread of a process since its start, by the thread's id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def spent(pid: int, before: dict[int, float], after: dict[int, float]) -> Spent:
    """Return what was spent between two readings."""
    took = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    poller = took.pop(pid)
    engine = max(took.values())
    return Spent(poller, engine, sum(took.values()) - engine)


async def _streams(service: Service, clients: int, tokens: int, seconds: float) -> list[Answer]:
    answers: list[Answer] = []

    async def one(number: int) -> None:
        answers.append(await ask(service.port, chat(f"item {number}", tokens, f"10.3.{number % CLIENTS}.1")))

    await closed_loop(clients, seconds, one)
    return answers


async def _greedy(service: Service, seconds: float) -> list[Answer]:
    others, greedy = await beside(service, seconds, rate=100)
    return [*others, *greedy]


LOADS: dict[str, Callable[[Service, float], Awaitable[list[Answer]]]] = {
    "64 clients, 1 token": lambda service, seconds: _streams(service, 64, 1, seconds),
    "64 clients, 64 tokens": lambda service, seconds: _streams(service, 64, 64, seconds),
    "192 clients, 300 tokens": lambda service, seconds: _streams(service, 192, 300, seconds),
    "10 clients and a greedy one": _greedy,
}


def measure(service: Service, name: str, seconds: float) -> list[str]:
    """Return the row of one load."""

    async def load() -> list[Answer]:
        return list(await LOADS[name](service, seconds))

    before = thread_times(service.worker.pid)
    answers = asyncio.run(load())
    took = spent(service.worker.pid, before, thread_times(service.worker.pid))
    finished = sum(answer.complete for answer in answers)
    refused = sum(answer.status == 503 for answer in answers)
    each = 1e3 * took.requests / max(1, finished)
    figures = (took.poller, took.engine, took.requests, each)
    return [name, *map(str, (finished, refused, sum(a.tokens for a in answers))), *(f"{f:.2f}" for f in figures)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each load and print, or write, the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--results", type=Path, help="folder for thread_time.json and thread_time.md")
    options = parser.parse_args(argv)
    found = record.facts(("flask", "gunicorn", "torch"))
    with serving(CPU_THREADS="1") as service:
        asyncio.run(_streams(service, 8, 16, 2.0))
        rows = [measure(service, name, options.seconds) for name in LOADS]
    table = record.table(HEADER, rows)
    print(table)
    if options.results:
        title = "What requests cost the threads of a loaded service"
        record.write("thread_time", found, {"rows": rows}, title, [table], options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
