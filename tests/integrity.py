"""What a real service holds while it is idle: after a test, whatever happened in it, it must hold no more than before.

    with nothing_left(server):
        ...

Counted from outside, of the worker and its helpers: threads, descriptors, sockets, child processes, temporary files;
and from its metrics: requests in flight, slots and tokens in the KV cache, restarts of the engine by its own check.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import psutil

from tests.e2e.gunicorn_process import GunicornProcess, until

SAMPLE = re.compile(r"^avito_ai_(\w+)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Holdings:
    """Counts; each may only fall. files: those open, sockets apart; tokens: in the KV caches of all models."""

    threads: int
    files: int
    sockets: int
    processes: int
    in_flight: int
    tokens: int
    restarts: int

    def beyond(self, earlier: Holdings) -> dict[str, tuple[int, int]]:
        """Return what there is more of, with the count before and now."""
        counts = {field.name: (getattr(earlier, field.name), getattr(self, field.name)) for field in fields(self)}
        return {name: (before, now) for name, (before, now) in counts.items() if now > before}


def worker_of(server: GunicornProcess) -> psutil.Process:
    """Return the process that serves."""
    (worker,) = psutil.Process(server.process.pid).children()
    return worker


def holdings(server: GunicornProcess) -> Holdings:
    """Return what the service holds now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
        samples = [(name, float(value)) for name, value in SAMPLE.findall(response.read().decode())]

    def total(*names: str) -> int:
        return int(sum(value for name, value in samples if name in names))

    worker = worker_of(server)
    helpers = worker.children(recursive=True)
    threads, descriptors, sockets = map(sum, zip(*map(_held, (worker, *helpers)), strict=True))
    return Holdings(
        threads=threads,
        files=descriptors - sockets,
        sockets=sockets,
        processes=len(helpers),
        in_flight=total("num_requests_running", "num_requests_waiting"),
        tokens=total("kv_cache_tokens_used"),
        restarts=total("engine_restarts_total"),
    )


@contextmanager
def nothing_left(server: GunicornProcess, restarts: int = 0) -> Iterator[None]:
    """Fail unless the service, soon after the block, holds no more than before. restarts: of the engine, intended."""
    before = holdings(server)
    yield
    allowed = Holdings(**{**vars(before), "restarts": before.restarts + restarts})
    left: dict[str, tuple[int, int]] = {}

    def clean() -> bool:
        left.clear()
        left.update(holdings(server).beyond(allowed))
        return not left

    try:
        until(clean)
    except AssertionError:
        raise AssertionError(f"left behind (before, now): {left}") from None


def _held(process: psutil.Process) -> tuple[int, int, int]:
    """Return the threads, descriptors and sockets of a process; nothing of one that has ended, which still counts."""
    try:
        with process.oneshot():
            return process.num_threads(), process.num_fds(), len(process.net_connections("all"))
    except psutil.Error:
        return 0, 0, 0
