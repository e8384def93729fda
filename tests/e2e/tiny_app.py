"""A small application for a real Gunicorn: two models whose loading, and one route whose answer, wait for files.

The folder in TINY_FOLDER is the remote control: a model loads when `load` appears there (and cannot when the file says
`broken`), `POST /work` answers when `answer` appears.
"""

import os
import threading
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from flask import Flask, Response, request

from config import settings_or_exit
from edge.body_budget import BodyBudget
from edge.gate import Decision
from engine.errors import NoRoom, NotReady, StartError
from engine.types import BackendState, BackendStats, Progress, Status
from models import ModelSet

FOLDER = Path(os.environ["TINY_FOLDER"])
PATIENCE = 600.0


def wait_for_file(name, given_up=lambda: False):
    """Poll for a file of the remote control and return its text; "" after the time-out."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if given_up() or (FOLDER / name).exists():
            return (FOLDER / name).read_text() if (FOLDER / name).exists() else ""
        pause.wait(0.02)
    raise TimeoutError(name)


class FileBackend:
    """A backend whose requests are counted by hand and whose load waits for a file."""

    def __init__(self):
        self.status = Status.LOADING
        self.running = 0
        self.aborted = False
        self.lock = threading.Lock()  # guards running

    def __getattr__(self, name):
        if name == "info":
            return type("Info", (), {"served_id": "tiny"})
        raise AttributeError(name)

    def start(self):
        if wait_for_file("load").startswith("broken"):
            raise StartError("VIBE_MODEL_DIR=/models: the checkpoint is broken.")
        self.status = Status.READY

    def work(self):
        with self.lock:
            if self.status is not Status.READY:
                raise NotReady("not ready", 1)
            self.running += 1
        (FOLDER / "working").touch()
        try:
            wait_for_file("answer", lambda: self.aborted)
            return "aborted" if self.aborted else "done"
        finally:
            with self.lock:
                self.running -= 1

    def state(self):
        return BackendState(self.status, progress=Progress("waiting"), restart_needed=(FOLDER / "dead").exists())

    def stats(self):
        return BackendStats(num_requests_running=self.running)

    def drain(self):
        self.status = Status.DRAINING

    def stop(self, timeout):
        self.aborted = True
        (FOLDER / "stopped").touch()


class OpenGate:
    """Lets every request through."""

    behind_proxy = False

    def tell_unlogged(self):
        """There is none."""

    def ask_of_lines(self, full):
        """None is refused."""

    def judge(self, head, peer, plain):
        return Decision(peer)


def check_room():
    if (FOLDER / "tight").exists():
        raise NoRoom("The models do not fit.")


def create_app():
    app = Flask(__name__)
    models = ModelSet({"avibe": FileBackend(), "avision": FileBackend()}, check=check_room)
    app.extensions["services"] = SimpleNamespace(
        models=models,
        begin_serving=lambda: None,
        end_serving=lambda: None,
        body_budget=BodyBudget(2**28, 2**27),
        gate=OpenGate(),
        settings=SimpleNamespace(engine=SimpleNamespace(queue_timeout=30.0, request_timeout=300.0)),
    )
    if (FOLDER / "refuse").exists():
        raise StartError("VIBE_MODEL_DIR=/models: there is no such folder.")

    @app.get("/state")
    def state():
        return {
            "pid": os.getpid(),
            "master": os.getppid(),
            "ready": models.ready,
            "port": settings_or_exit().server.port,
            "folder": os.getcwd(),
            "lazily": str(Path(find_spec("app_production").origin).parent),
        }

    @app.post("/work")
    def work():
        request.get_data()
        try:
            return {"answer": models.get("avibe").work(), "pid": os.getpid()}
        except NotReady:
            return {"error": "not_ready"}, 503

    @app.get("/flood")
    def flood():
        def pieces():
            try:
                while True:
                    yield b"x" * 65536
            finally:
                (FOLDER / "flood-ended").touch()

        return Response(pieces())

    return app


app = create_app()
