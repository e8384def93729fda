"""Count how often a thread of the service holds Python's global lock for long, whatever it is sent, and who.

    python -m benchmarks.lock_holds [LOAD ...] [--results FOLDER]

A real Gunicorn with the demo models meets every hostile request of the proof, then mixed ones, then a reload. Holds are
counted in processor time, so the counts mean the same on a machine that does other work too; the longest wait for a
core tells how busy it was. LOAD: only those whose name has this in it. Needs Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.harness import lock_watch, record, servers
from benchmarks.harness.lock_watch import Wait
from benchmarks.proof import handover, hostile
from benchmarks.proof.observer import observing
from benchmarks.proof.report import Report
from benchmarks.proof.service import SETTINGS, Service
from benchmarks.proof.size import SHORT
from benchmarks.proof.soak import Crowd

LONG = 0.02  # seconds of processor time in one go
MIXED = 300
SETTLED = 0.1  # seconds until the last wait is written
HEADER = [
    "load",
    "requests",
    "waits for the lock",
    "holds of 20 ms",
    "longest hold, ms",
    "by",
    "longest for a core, ms",
]
Load = tuple[str, int, Callable[[], object]]  # its name, how many requests it has, and what sends them


def loads(service: Service, report: Report) -> Iterator[Load]:
    """Yield every load; the last one replaces the service."""
    for name, requests in hostile.attacks(SHORT):
        yield name, len(requests), partial(hostile.attempt, service, report, name, requests)
    yield "mixed requests", MIXED, lambda: asyncio.run(Crowd(service, report, MIXED).run())
    yield "reload", 0, partial(handover.reload, service.master)


def row(name: str, requests: int, waits: Sequence[Wait]) -> list[str]:
    """Return the cells of one load."""
    longest = max(waits, key=lambda wait: wait.held, default=None)
    held, thread = ("none", "") if longest is None else (f"{1e3 * longest.held:.1f}", longest.thread)
    queued = max((wait.queued for wait in waits), default=0.0)
    for_lock = sum(wait.waited >= lock_watch.TOLD for wait in waits)
    holds = sum(wait.held >= LONG for wait in waits)
    return [name, str(requests), str(for_lock), str(holds), held, thread, f"{1e3 * queued:.0f}"]


def measure(wanted: Sequence[str]) -> list[list[str]]:
    """Return the rows of the loads whose names have one of these words in them; of all of them without words."""
    found: dict[str, tuple[int, list[Wait]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "waits", Path(folder) / "log"
        server = servers.demo("watched", "benchmarks.harness.watched_app:app")
        server = replace(server, env={**server.env, **SETTINGS, "LOCK_WATCH": str(path)})
        with servers.running(server, log) as address:
            service, report = Service(address, log), Report("lock holds", "")
            serving = service.worker.pid
            for name, requests, send in loads(service, report):
                if wanted and not any(word in name for word in wanted):
                    continue
                known = len(lock_watch.read(path))
                with observing(service):  # a stream and probes of others
                    send()
                    time.sleep(SETTLED)
                waits = [wait for wait in lock_watch.read(path)[known:] if wait.process == serving]
                before, earlier = found.get(name, (0, []))
                found[name] = (before + requests, earlier + waits)
    return [row(name, requests, waits) for name, (requests, waits) in found.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each load and print, or write, the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("loads", nargs="*", metavar="LOAD")
    parser.add_argument("--results", type=Path, help="folder for lock_holds.json and lock_holds.md")
    options = parser.parse_args(argv)
    found = record.facts(("flask", "gunicorn", "torch"))
    rows = measure(options.loads)
    table = record.table(HEADER, rows)
    print(table)
    if options.results:
        title = "How long threads of the service hold Python's global lock"
        record.write("lock_holds", found, {"rows": rows}, title, [table], options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
