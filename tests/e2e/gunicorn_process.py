"""A real Gunicorn on a free port of loopback, with the service's own configuration file, for tests."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from config import SETTINGS

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds until a wait of a test counts as failed
# Below the ports that Linux and macOS give to outgoing connections.
PORTS = range(15_000, 30_000)
# What the tests set themselves, whatever the environment they run in says.
OURS = {setting.name for setting in SETTINGS} | {"NOTIFY_SOCKET", "WATCHDOG_USEC"}


def free_port() -> int:
    """Return a port without a listener that no outgoing connection takes before it is used."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(condition, patience=PATIENCE, every=0.02):
    """Poll until the condition holds and return what it gave; fail after `patience` seconds."""
    pause, end = threading.Event(), time.monotonic() + patience
    while time.monotonic() < end:
        if found := condition():
            return found
        pause.wait(every)
    raise AssertionError(f"did not happen within {patience} s")


def alive(process):
    """Return whether the whole application answers its probe."""
    try:
        return process.get("/api/health/live", timeout=5)[0] == 200
    except OSError:
        return False


class GunicornProcess:
    """The tiny application under Gunicorn. `folder` is its remote control and holds its output."""

    def __init__(self, folder, app="tests.e2e.tiny_app:app", cwd=ROOT, **settings):
        self.folder = folder
        self.port = int(settings.get("PORT") or free_port())
        self.output = folder / "output"
        environ = {name: value for name, value in os.environ.items() if name not in OURS}
        environ |= {"TINY_FOLDER": str(folder), "PORT": str(self.port), "HOST": "127.0.0.1", "DRAIN_SECONDS": "10"}
        environ |= {"STATE_DIR": str(folder / "state")}
        environ["STATE_DIR"] = str(folder / "state")
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", "gunicorn_config.py", app],
                cwd=cwd,
                env=environ | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for pid in {self.process.pid, *self.masters()}:
            self._kill_tree(pid)
        self.process.wait(PATIENCE)

    def say(self, name, text=""):
        """Write a file of the application's remote control."""
        (self.folder / name).write_text(text)

    def wait_for(self, name):
        """Wait for a file that the application writes."""
        until((self.folder / name).exists)

    def log(self):
        """Return all that was printed so far."""
        return self.output.read_text()

    def get(self, path, method="GET", timeout=PATIENCE):
        """Return status and JSON of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def state(self):
        """Return the application's state, None while nothing answers."""
        try:
            return self.get("/state", timeout=2)[1]
        except (OSError, http.client.HTTPException):
            return None

    def answering(self):
        """Wait until the application answers, and return its state."""
        return until(self.state)

    def ready(self):
        """Wait until the models are ready, and return the application's state."""
        return until(lambda: (state := self.state()) and state["ready"] and state)

    def draining(self):
        """Wait until the application answers that it is not ready."""
        until(lambda: (state := self.state()) and not state["ready"])

    def logged(self, line):
        """Wait until something was printed: what a request tells may be true before that."""
        until(lambda: line in self.log())

    def signal(self, number):
        """Send a signal to the first master."""
        self.process.send_signal(number)

    def send(self, pid, number):
        """Send a signal to a process of this service."""
        os.kill(pid, number)

    def ended(self):
        """Wait for the first master to end and return its status."""
        return self.process.wait(PATIENCE)

    def connect(self, request=b""):
        """Return a raw connection on which `request` was sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        connection.sendall(request)
        return connection

    def masters(self):
        """Return the process ids of the masters that say so in the log and still live."""
        pids = [int(line.rsplit("(", 1)[1].rstrip(")")) for line in self.log().splitlines() if "Listening at" in line]
        return [pid for pid in pids if _alive(pid)]

    def _kill_tree(self, pid):
        try:
            os.kill(pid, signal.SIGQUIT)
            until(lambda: not _alive(pid) or self.process.poll() is not None, patience=5)
        except (ProcessLookupError, AssertionError):
            pass


def _alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
