"""Programs of the system as processes of a test, on loopback, with folders of their own: Redis, nginx, HAProxy."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from tests.e2e.gunicorn_process import PATIENCE, free_port, until
from tests.system_programs import program

ROOT = Path(__file__).parents[1]


class SystemProcess:
    """One program, ended with its block. `log` is all it printed."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "output"
        self.process = None

    def start(self, *command, **environ):
        """Start it and wait until it takes connections."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(command, env=os.environ | environ, stdout=output, stderr=subprocess.STDOUT)
        try:
            until(self.accepts, patience=2 * PATIENCE)
        except AssertionError:
            self.kill()
            raise

    def accepts(self):
        """True once it takes connections; it must not have ended before."""
        assert self.process.poll() is None, self.log()
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def log(self):
        return self.output.read_text(errors="replace")

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        """Kill it without a clean shutdown."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


class Redis(SystemProcess):
    """A Redis without persistence; it can be killed and restarted on the same port."""

    def __init__(self, folder):
        super().__init__(folder, free_port())
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.begin()

    def begin(self):
        where = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder))
        self.start(program("redis-server"), *where, "--save", "", "--appendonly", "no")
