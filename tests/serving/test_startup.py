"""How a worker decides between a first start and a hand-over, without Gunicorn."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from engine.errors import NoRoom, StartError
from models import ModelSet
from serving.startup import is_parent, start_models
from tests.e2e.gunicorn_process import until
from tests.fakes import PATIENCE, ScriptedBackend

ROOT = Path(__file__).parents[2]
NO_PROCESS = 2**22 + 1


class StandingWorker:
    """The part of a worker that `start_models` uses."""

    def __init__(self, models):
        self.models = models
        self.ppid = os.getppid()
        self.predecessors = ()
        self.alive = True
        self.orphaned = False
        self.drain_seconds = 0
        self.signs = []

    def notify(self):
        self.signs.append("alive")

    def beat(self):
        self.signs.append("beat")


def test_hand_over_from_a_master_that_has_exited_is_a_first_start(caplog):
    """If the old master has exited, the worker serves while it loads."""
    said, ready = [], threading.Event()

    def notify(message):
        said.append(message)
        if message.startswith("READY=1"):
            ready.set()

    worker = StandingWorker(ModelSet({"avibe": ScriptedBackend()}))
    start_models(worker, NO_PROCESS, notify, on_failure=None)
    assert ready.wait(PATIENCE)
    assert said[0] == "STATUS=Loading the models"
    assert not any("MAINPID" in message for message in said)
    assert "has already exited" in caplog.text


def test_successor_sends_heartbeats_while_it_loads():
    """Until the models are ready the worker sends heartbeats to Gunicorn and systemd, and accepts nothing."""
    said, worker = [], StandingWorker(ModelSet({}))

    class SlowBackend(ScriptedBackend):
        def start(self):
            until(lambda: worker.signs.count("beat") > 1)
            super().start()

    worker.models = ModelSet({"avibe": SlowBackend()})
    worker.predecessors = (NO_PROCESS,)
    start_models(worker, None, said.append, on_failure=None)
    assert worker.models.ready
    assert said == [f"MAINPID={os.getppid()}\nREADY=1\nSTATUS=Serving"]
    assert worker.signs[:2] == ["alive", "beat"]


class Crowded:
    """A check that raises NoRoom the first `times` times."""

    def __init__(self, worker, times):
        self.worker, self.times = worker, times
        self.overlapping = []

    def __call__(self):
        self.overlapping.append(self.worker.models.overlapping)
        if len(self.overlapping) <= self.times:
            raise NoRoom("The models do not fit on cuda together.")


def take_over_from_a_child(check_times, refused):
    """Run a hand-over from a process that plays the old master; return the notifications and the check."""
    with subprocess.Popen([sys.executable, "-c", OLD_MASTER], stdout=subprocess.PIPE, text=True) as old:
        child = int(old.stdout.readline())
        said, worker = [], StandingWorker(None)
        worker.ppid = child
        check = Crowded(worker, check_times)
        worker.models = ModelSet({"avibe": ScriptedBackend()}, check=check)

        def on_failure(error):
            refused.append(error)
            worker.alive = False

        try:
            start_models(worker, old.pid, said.append, on_failure)
            if not refused:
                old.wait(60)
        finally:
            old.terminate()
    return said, check


# Plays a master with the new master as its child: prints the child's pid and exits at SIGTERM.
OLD_MASTER = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
    print(child.pid, flush=True)
    child.wait()
"""


def test_without_memory_for_two_copies_the_old_master_is_stopped_first(caplog):
    """The new main pid is reported, the old master stopped, and only then are the models loaded."""
    said, check = take_over_from_a_child(1, refused := [])
    assert refused == []
    assert check.overlapping == [True, False]
    assert [message.splitlines()[0].partition("=")[0] for message in said] == ["MAINPID", "MAINPID"]
    assert "READY=1" not in said[0]
    assert "READY=1" in said[1]
    assert "The old master is stopped first" in caplog.text


def test_models_that_do_not_fit_alone_end_the_new_process():
    """Once the old master has exited, NoRoom is a failed start like any other."""
    _, check = take_over_from_a_child(2, refused := [])
    assert [type(error) for error in refused] == [NoRoom]
    assert check.overlapping == [True, False]


def test_other_failures_leave_the_old_master_alone():
    """A broken checkpoint does not stop the master that serves."""

    def broken():
        raise StartError("The checkpoint is broken.")

    refused, said, worker = [], [], StandingWorker(ModelSet({"avibe": ScriptedBackend()}, check=broken))

    def on_failure(error):
        refused.append(str(error))
        worker.alive = False

    worker.ppid = os.getpid()
    start_models(worker, os.getppid(), said.append, on_failure)
    assert refused == ["The checkpoint is broken."]
    assert said == []


def test_only_the_running_parent_counts():
    """Parenthood is looked up each time, so a reused pid does not count as the parent."""
    assert is_parent(os.getppid(), os.getpid())
    assert not is_parent(os.getpid(), os.getpid())
    assert not is_parent(os.getpid(), NO_PROCESS)


def test_failed_load_exits_from_any_thread_with_its_status():
    """The process exits at once with one sentence and the status that Gunicorn reads."""
    code = (
        "import threading; from engine.errors import StartError; from serving.startup import exit_process\n"
        "threading.Thread(target=exit_process(3), args=(StartError('no model.'),)).start()\n"
        "threading.Event().wait(60)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 3
    assert run.stderr == "The service cannot start: no model.\n"
