"""Under a flood the engine comes first: what one refusal costs the polling thread.

    python -m benchmarks.proof.refusal_cost

Judged from its head, counted, logged to a file and sent, with 192 clients' requests in flight: microseconds of the
thread's processor time, the median of rounds. The interpreter lock is held for no more than that. The limit is 100.
"""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness import record
from benchmarks.proof.report import Report
from benchmarks.proof.size import Size
from config import load_settings
from edge.authentication import Authenticator
from edge.batch_capacity import BatchCapacity
from edge.gate import Gate, named
from edge.rate_limit import RateLimiter
from edge.request_head import read_head
from engine.errors import RetryLater
from engine.schedule.waiting_room import WaitingRoom
from engine.types import BackendState, BackendStats, ModelInfo, Status
from models import ModelSet
from routes.locale import sentence_in
from telemetry.access_lines import SparseLines
from telemetry.logs import set_up_logging
from telemetry.metrics import Metrics
from telemetry.metrics.machine import ThisMachine
from usage.budgets import Budgets
from usage.prices import Prices
from usage.totals import Totals

ROUNDS, REFUSALS = 15, 400
LIMIT_MICROSECONDS = 100.0
CAPACITY = 192
BODY = b'{"messages":[{"role":"user","content":"Write a listing for a used bicycle"}],"model":"avibe","stream":true}'


class FullBackend:
    """A model whose waiting room is full."""

    def __init__(self, name: str) -> None:
        self.info = ModelInfo(name, f"{name}-demo", False, True, 4096)
        self._room = WaitingRoom(CAPACITY, 1_000_000)
        for number in range(CAPACITY):
            self._room.admit(f"10.0.0.{number}")

    def would_refuse(self, client: str) -> RetryLater | None:
        """Return the refusal of a full room."""
        return self._room.would_refuse(client)

    def state(self) -> BackendState:
        """Return that the model is ready."""
        return BackendState(Status.READY)

    def stats(self) -> BackendStats:
        """Return no figures."""
        return BackendStats()


def head_of(path: str) -> bytes:
    """Return the head of a request as a Python client behind a proxy sends it."""
    fields = (
        "Host: ai.example.org\r\nX-Forwarded-For: 10.6.6.6\r\nX-Forwarded-Proto: https\r\nAccept: */*\r\n"
        "Accept-Encoding: gzip, deflate\r\nUser-Agent: python-httpx/0.28.1\r\nContent-Type: application/json\r\n"
    )
    return f"POST {path} HTTP/1.1\r\n{fields}Content-Length: {len(BODY)}\r\n\r\n".encode()


def microseconds(call: Callable[[], Any]) -> float:
    """Return the median processor time of one call."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(REFUSALS):
            call()
        rounds.append(1e6 * (time.thread_time() - began) / REFUSALS)
    return median(rounds)


def gate_of(per_minute: int) -> Gate:
    """Return the gate before two full models."""
    limits = {"RATE_LIMIT_PER_MINUTE": str(per_minute), "RATE_LIMIT_PER_HOUR": str(per_minute), "TRUSTED_PROXIES": "1"}
    settings = load_settings(limits, None)
    backends: dict[str, Any] = {name: FullBackend(name) for name in ("avibe", "avision")}
    models = ModelSet(backends)
    metrics = Metrics(models, ThisMachine(), lambda: 0)
    limiter, budgets = RateLimiter(per_minute, per_minute), Budgets(Totals(None), Prices(None))
    lines, capacity = SparseLines(), BatchCapacity(1)
    return Gate(settings, models, limiter, metrics, sentence_in, Authenticator(), budgets, lines, capacity)


def run(size: Size) -> Report:
    """Measure in a process of its own, whose log is nobody else's."""
    report = Report("refusal_cost", "under a flood the engine comes first: what one refusal costs the polling thread")
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True, check=False)
    for name, figure in re.findall(r"^(.+): (\d+) microseconds$", done.stdout, re.MULTILINE):
        report.count(None)
        report.check(f"{name}, microseconds", float(figure), LIMIT_MICROSECONDS)
    if not report.tried:
        report.count("nothing was measured")
    return report


def main() -> int:
    """Print the figures; return 1 where one is above the limit."""
    ours, client = socket.socketpair()
    figures = {}
    with tempfile.NamedTemporaryFile() as file:
        set_up_logging(load_settings({"LOG_FILE": file.name}, None))
        logging.root.removeHandler(logging.root.handlers[0])  # standard output is for the figures

        def refuse(gate: Gate, head: bytes, *, by_name: bool) -> None:
            verdict = gate.judge(head, "127.0.0.1", read_head(head))
            refusal = verdict.again(named(BODY)) if by_name and verdict.again is not None else verdict.refusal
            assert refusal is not None
            ours.send(refusal)
            client.recv(65536)

        for name, path, per_minute, by_name in (
            ("503 at capacity, /api/v1", "/api/v1/text/generate", 0, False),
            ("503 at capacity, /v1", "/v1/chat/completions", 0, True),
            ("503 at capacity, charged", "/api/v1/text/generate", 1_000_000, False),
            ("429, limit spent", "/v1/chat/completions", 1, False),
        ):
            gate, head = gate_of(per_minute), head_of(path)
            if per_minute == 1:
                spent = head_of("/api/v1/text/generate")
                gate.judge(spent, "127.0.0.1", read_head(spent))
            figures[name] = microseconds(partial(refuse, gate, head, by_name=by_name))
    for name, figure in figures.items():
        print(f"{name}: {figure:.0f} microseconds")
    return int(max(figures.values()) > LIMIT_MICROSECONDS)


if __name__ == "__main__":
    sys.exit(main())
