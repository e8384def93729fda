"""A server that can be killed and started again at the same port."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil

from benchmarks.harness import servers
from benchmarks.harness.servers import Server


class Process:
    """A server in a session of its own. log: file for its output, to which each start adds."""

    def __init__(self, server: Server, log: Path) -> None:
        self._server, self._log, self._port = server, log, servers.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """http://host:port."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it is ready. Raises RuntimeError if it does not become so."""
        command = [part.replace("{port}", str(self._port)) for part in self._server.command]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self._server.folder,
                env={**os.environ, **self._server.env},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        servers.wait_until_ready(self._process, f"{self.address}{self._server.ready}")

    def kill(self) -> None:
        """End it and its children at once, as the system does for want of memory."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """Stop it if it runs, and kill what is left."""
        if self._process is not None:
            servers.end(self._process)

    def cpu_seconds(self) -> float:
        """Return the processor time of it and its children so far."""
        assert self._process is not None
        own = psutil.Process(self._process.pid)
        return sum(_seconds(one) for one in (own, *own.children(recursive=True)))


def _seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:  # it has ended meanwhile
        return 0.0
    return float(times.user + times.system)
