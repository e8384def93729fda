"""Watches a service from a process of its own: probes, another client's stream, and memory.

`python -m benchmarks.proof.observer PORT MASTER FOLDER` observes until the file `enough` stands in FOLDER, and then
leaves `seen.json` there: an object with the keys of `Seen`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks.proof.report import Report, as_if_asked, milliseconds, percentile
from benchmarks.proof.service import Service
from benchmarks.proof.traffic import chat, request

PROBES = ("/api/health/ready", "/api/health/live")
PROBE_EVERY = 0.05  # seconds
MEMORY_EVERY = 0.05
LATE = 0.1
PATIENCE = 60.0
TOKENS = 1000  # of one stream of the other client
END_SECONDS = 120.0


@dataclass(slots=True)
class Seen:
    """probes: seconds of each; failed: probes that were not answered 200; gaps: seconds between two parts of the other
    client's stream; broken: its streams that did not end well; peak: bytes resident, of all processes of the service;
    late: what took long of both, with the moment on the machine's monotonic clock at which it was over.
    """

    probes: list[float] = field(default_factory=list)
    failed: int = 0
    gaps: list[float] = field(default_factory=list)
    broken: int = 0
    peak: int = 0
    late: list[tuple[float, str, float]] = field(default_factory=list)

    def waited(self, what: str, seconds: float) -> None:
        """Keep the time of a probe or of a gap in the stream."""
        (self.probes if what == "probe" else self.gaps).append(seconds)
        if seconds > LATE:
            self.late.append((time.monotonic(), what, seconds))

    @property
    def all_probes(self) -> list[float]:
        """The seconds of each probe, and of those that would have been sent while one was waited for."""
        return as_if_asked(self.probes, PROBE_EVERY)

    def judge(self, report: Report, service: Service, quiet: Seen | None = None) -> None:
        """Add the promises that hold under everything. quiet: what was seen without a load, for the stream's gaps."""
        report.check("probes p99.9, ms", milliseconds(percentile(self.all_probes, 99.9)), 100)
        report.check("probes that failed", self.failed, 0)
        if quiet is not None:
            usual, worst = percentile(quiet.gaps, 100), percentile(self.gaps, 100)
            longer = worst - usual if worst is not None and usual is not None else None
            report.notes |= {"longest_pause_s": worst, "usual_longest_pause_s": usual}
            report.check("another's stream: longest pause beyond its usual one, ms", milliseconds(longer), 100)
            report.check("another's stream: broken off", self.broken, 0)
        bound = service.memory_bound
        report.notes["peak_bytes"], report.notes["printed_bound_bytes"] = self.peak, bound
        report.check("memory at its peak, of the printed bound", self.peak / bound if bound else None, 1)


class Observer:
    """Three threads that observe one service."""

    def __init__(self, port: int, master: int, stream: bool) -> None:
        self.seen = Seen()
        self._port, self._master = port, psutil.Process(master)
        self._enough = threading.Event()
        jobs = [self._probe, self._weigh, *([self._listen] if stream else [])]
        self._threads = [threading.Thread(target=job) for job in jobs]
        for thread in self._threads:
            thread.start()

    def end(self) -> Seen:
        """Stop; return what was seen."""
        self._enough.set()
        for thread in self._threads:
            thread.join()
        return self.seen

    def _probe(self) -> None:
        while not self._enough.wait(PROBE_EVERY):
            for path in PROBES:
                began = time.perf_counter()
                good = False
                with suppress(OSError):
                    good = _get(self._port, path)
                self.seen.waited("probe", time.perf_counter() - began)
                self.seen.failed += not good

    def _weigh(self) -> None:
        processes, looked = [self._master], 0.0
        while not self._enough.wait(MEMORY_EVERY):
            if time.monotonic() - looked > 1:
                processes, looked = [self._master, *self._master.children(recursive=True)], time.monotonic()
            resident = 0
            for process in processes:
                with suppress(psutil.Error):
                    resident += process.memory_info().rss
            self.seen.peak = max(self.seen.peak, resident)

    def _listen(self) -> None:
        number = 0
        while not self._enough.is_set():
            number += 1
            try:
                self._stream(number)
            except OSError:
                self.seen.broken += 1

    def _stream(self, number: int) -> None:
        """Read one stream and keep the gaps between its parts, from its first part on."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
            connection.sendall(chat(f"Count to {number}.", TOKENS, "198.51.100.7"))
            last, end = None, b""
            while not self._enough.is_set():
                data = connection.recv(65536)
                now = time.perf_counter()
                if not data:
                    self.seen.broken += b"data: [DONE]" not in end or b'"error"' in end
                    return
                if last is not None:
                    self.seen.waited("gap", now - last)
                last, end = (now, (end + data)[-4000:]) if b"data:" in data or end else (None, end)


@contextmanager
def observing(service: Service, stream: bool = True) -> Iterator[Seen]:
    """Observe until the block ends; what was seen is in the yielded object afterwards. stream: keep a stream open."""
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, str(service.port), str(service.master.pid), folder]
        process = subprocess.Popen([*command, *(["stream"] if stream else [])])
        try:
            yield seen
        finally:
            (Path(folder) / "enough").touch()
            process.wait(END_SECONDS)
        told = json.loads((Path(folder) / "seen.json").read_text(encoding="utf-8"))
    for name, value in told.items():
        setattr(seen, name, value)


def _get(port: int, path: str) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(request(path))
        head = connection.recv(65536)
        while connection.recv(65536):
            pass
    return head.startswith(b"HTTP/1.1 200")


def main(port: int, master: int, folder: Path, stream: bool) -> None:
    """Observe until there is enough."""
    observer = Observer(port, master, stream)
    while not (folder / "enough").exists() and psutil.pid_exists(master):
        time.sleep(0.05)
    (folder / "seen.json").write_text(json.dumps(asdict(observer.end())), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:] == ["stream"])
