"""Reloads and a stop under load: no admitted request is lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import record
from benchmarks.proof.report import Report, milliseconds, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size

LOAD = record.ROOT / "tests" / "deploy" / "load.py"
RATE = 10.0  # requests a second
REPEATED = 2.0  # seconds from one signal to the next
PATIENCE = 300.0
DRAIN_SECONDS = 60.0  # the setting's default
SETTLED = 2.0  # seconds of load before and after
Seen = list[dict[str, Any]]


@contextmanager
def _load(service: Service) -> Iterator[Seen]:
    """Keep the service under load until the block ends; what was seen is in the yielded list afterwards."""
    seen: Seen = []
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, str(LOAD), str(service.port), folder, f"{RATE:g}"])
        try:
            time.sleep(SETTLED)
            yield seen
            time.sleep(SETTLED)
        finally:
            (Path(folder) / "enough").touch()
            process.wait(PATIENCE)
        seen += json.loads((Path(folder) / "seen.json").read_text(encoding="utf-8"))


def run(size: Size) -> Report:
    """Reload again and again under load, then stop under load."""
    report = Report("handover", "stop and reload lose no admitted request")
    with serving(size.model, REQUEST_TIMEOUT=f"{PATIENCE:g}") as service:  # a long stream is to end by itself
        master = service.master
        with _load(service) as seen:
            for _ in range(size.rounds):
                master = reload(master)
        for request in seen:
            report.count(f"reload: {request['kind']}: {request['trouble']}"[:80] if request["trouble"] else None)
        probes = [request["ended"] - request["began"] for request in seen if request["kind"] == "probe"]
        report.check("reload: probes p99.9, ms", milliseconds(percentile(probes, 99.9)), 100)
        report.notes["reloads"] = size.rounds
        with _load(service) as stopped:
            signalled = time.monotonic()
            master.send_signal(signal.SIGTERM)
            _until(lambda: not master.is_running())
            ended = time.monotonic()
        _judge_stop(report, stopped, signalled, ended)
    return report


def _judge_stop(report: Report, seen: Seen, signalled: float, ended: float) -> None:
    """Count every request around a stop that was neither answered nor refused."""
    for request in seen:
        lost = request["trouble"] and not request["refused"]
        report.count(f"stop: {request['kind']}: {request['trouble']}"[:80] if lost else None)
    asked = [one for one in seen if one["kind"] != "probe" and one["began"] < signalled < one["ended"]]
    report.check("stop: requests in flight at the signal", len(asked), 1, at_least=True)
    report.check("stop: seconds until the process has ended", ended - signalled, DRAIN_SECONDS)


def reload(master: psutil.Process) -> psutil.Process:
    """Hand over to a new master; return it once the old one has ended."""

    def forked() -> bool:  # a master that has just taken over ignores the signal
        master.send_signal(signal.SIGUSR2)
        time.sleep(REPEATED)
        return len(master.children()) > 1

    _until(forked)
    _until(lambda: len(_masters(master)) == 1)
    (new,) = _masters(master)
    _until(lambda: not master.is_running() or master.status() == psutil.STATUS_ZOMBIE)
    return new


def _masters(master: psutil.Process) -> list[psutil.Process]:
    """Return the children that are masters themselves: Gunicorn's new one, until the old one ends, with its worker.

    The old one's pid in its environment distinguishes it from a worker, which has children of its own as well.
    """
    old = str(master.pid)
    try:
        return [child for child in master.children() if child.children() and child.environ().get("GUNICORN_PID") == old]
    except psutil.Error:
        return []


def _until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds. Raises TimeoutError after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the service did not hand over")
        time.sleep(0.05)
