"""The service under proof: a real Gunicorn with the demo models or a given one, and what is seen of it from outside."""

from __future__ import annotations

import os
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.harness import servers

DEADLINE = 15.0  # seconds that a request may take
SETTINGS = {
    "TRUSTED_PROXIES": "1",  # each request names its client
    "REQUEST_TIMEOUT": f"{DEADLINE:g}",
    "QUEUE_TIMEOUT": f"{DEADLINE:g}",
    "LOG_LEVEL": "INFO",
}
BOUND = re.compile(r'memory plan: \{"total": (\d+)')  # what the start promises, in bytes
SAMPLE = re.compile(r"^(\w+(?:\{[^}]*\})?) (\S+)$", re.MULTILINE)
QUIET_SECONDS = 30.0
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the service holds, its helpers included. resident: bytes."""

    resident: int
    threads: int
    descriptors: int
    sockets: int
    processes: int


class Service:
    """A running service. worker: the process that serves, as it was at the start."""

    def __init__(self, address: str, log: Path) -> None:
        self.address, self.log = address, log
        self.port = int(address.rpartition(":")[2])
        ours = psutil.Process().children()
        self.master = next(child for child in ours if f"127.0.0.1:{self.port}" in child.cmdline())
        self.worker = self.master.children()[0]

    @property
    def alive(self) -> bool:
        """Whether the first worker still serves."""
        return self.worker.is_running() and self.worker.status() != psutil.STATUS_ZOMBIE

    @property
    def memory_bound(self) -> float | None:
        """Bytes that the start promised not to exceed, None if it printed no bound."""
        found = BOUND.findall(self.log.read_text(encoding="utf-8", errors="replace"))
        return float(found[-1]) if found else None

    def footprint(self) -> Footprint:
        """Return what master, worker and helpers hold now."""
        processes = [self.master, *self.master.children(recursive=True)]
        found = [one for process in processes if (one := _footprint(process)) is not None]
        columns = zip(*((f.resident, f.threads, f.descriptors, f.sockets, f.processes) for f in found), strict=True)
        return Footprint(*(sum(column) for column in columns))

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics by name with labels."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=60) as response:
            return {name: float(value) for name, value in SAMPLE.findall(response.read().decode())}

    def total(self, name: str) -> float:
        """Return the sum of one metric over its labels."""
        return sum(value for sample, value in self.metrics().items() if sample.partition("{")[0] == name)

    @property
    def in_flight(self) -> float:
        """Requests that are running or waiting."""
        return self.total("avito_ai_num_requests_running") + self.total("avito_ai_num_requests_waiting")

    def seconds_until_quiet(self, patience: float = QUIET_SECONDS) -> float | None:
        """Wait until nothing is in flight; return how long that took, None if it took longer than `patience`."""
        began = time.monotonic()
        while time.monotonic() - began < patience:
            if not self.in_flight:
                return time.monotonic() - began
            time.sleep(POLL_SECONDS)
        return None


@contextmanager
def serving(model: Path | None = None, apart: bool = False, **settings: str) -> Iterator[Service]:
    """Run a service until the block ends. model: Avibe's checkpoint, None for the demo's.

    apart: this thread and what it starts has the last core for itself, and the service the others, so that what is
    measured is not what the load generator takes from it.
    """
    env: Mapping[str, str] = servers.demo("proof", "app_production:app").env
    chosen = {"VIBE_MODEL_DIR": str(model.resolve()), "VIBE_TOKENIZER_DIR": str(model.resolve())} if model else {}
    server = replace(servers.demo("proof", "app_production:app"), env={**env, **SETTINGS, **chosen, **settings})
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        cores = sorted(os.sched_getaffinity(0))
        own = cores[-1:] if apart else cores
        os.sched_setaffinity(0, cores[:-1] if apart and len(cores) > 1 else cores)  # the service inherits it
        try:
            with servers.running(server, log) as address:
                os.sched_setaffinity(0, own)
                yield Service(address, log)
        finally:
            os.sched_setaffinity(0, cores)


def _footprint(process: psutil.Process) -> Footprint | None:
    """Return what one process holds, None if it has ended."""
    try:
        with process.oneshot():
            return Footprint(
                process.memory_info().rss,
                process.num_threads(),
                process.num_fds(),
                len(process.net_connections("all")),
                1,
            )
    except psutil.Error:
        return None
