"""How a worker decides between a first start and a take-over, without a Gunicorn."""

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
    """What `start_models` asks of a worker."""

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


def test_take_over_from_a_master_that_is_gone_is_a_first_start(caplog):
    """Where nobody serves any more, the worker does not keep its clients waiting until it has loaded."""
    said, ready = [], threading.Event()

    def notify(message):
        said.append(message)
        if message.startswith("READY=1"):
            ready.set()

    worker = StandingWorker(ModelSet({"avibe": ScriptedBackend()}))
    start_models(worker, NO_PROCESS, notify, leave=None)
    assert ready.wait(PATIENCE)
    assert said[0] == "STATUS=Loading the models"
    assert not any("MAINPID" in message for message in said)
    assert "is already gone" in caplog.text


def test_worker_that_takes_over_lives_on_while_it_loads():
    """Until the models are ready the worker shows Gunicorn and the watchdog that it lives, and accepts nothing."""
    said, worker = [], StandingWorker(ModelSet({}))

    class SlowBackend(ScriptedBackend):
        def start(self):
            until(lambda: worker.signs.count("beat") > 1)
            super().start()

    worker.models = ModelSet({"avibe": SlowBackend()})
    worker.predecessors = (NO_PROCESS,)
    start_models(worker, None, said.append, leave=None)
    assert worker.models.ready
    assert said == [f"MAINPID={os.getppid()}\nREADY=1\nSTATUS=Serving"]
    assert worker.signs[:2] == ["alive", "beat"]


class Crowded:
    """A check that finds no room as often as it is told to."""

    def __init__(self, worker, times):
        self.worker, self.times = worker, times
        self.overlapping = []

    def __call__(self):
        self.overlapping.append(self.worker.models.overlapping)
        if len(self.overlapping) <= self.times:
            raise NoRoom("The models do not fit on cuda together.")


def take_over_from_a_child(check_times, refused):
    """Run a take-over from a process that stands for the old master; return what was said, and the check."""
    with subprocess.Popen([sys.executable, "-c", OLD_MASTER], stdout=subprocess.PIPE, text=True) as old:
        child = int(old.stdout.readline())
        said, worker = [], StandingWorker(None)
        worker.ppid = child
        check = Crowded(worker, check_times)
        worker.models = ModelSet({"avibe": ScriptedBackend()}, check=check)

        def leave(error):
            refused.append(error)
            worker.alive = False

        start_models(worker, old.pid, said.append, leave)
        if refused:
            old.terminate()
    return said, check


# Stands for a master with the new master as its child: it says the child's number and ends at SIGTERM.
OLD_MASTER = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
    print(child.pid, flush=True)
    child.wait()
"""


def test_without_room_for_two_copies_the_old_master_ends_first(caplog):
    """Systemd learns who the master is, the old one is stopped, and only then the models are loaded."""
    said, check = take_over_from_a_child(1, refused := [])
    assert refused == []
    assert check.overlapping == [True, False]
    assert [message.splitlines()[0].partition("=")[0] for message in said] == ["MAINPID", "MAINPID"]
    assert "READY=1" not in said[0]
    assert "READY=1" in said[1]
    assert "the old master ends first" in caplog.text


def test_models_that_do_not_fit_alone_either_end_the_new_process():
    """Once the old master is gone, no room is a failed start like any other."""
    _, check = take_over_from_a_child(2, refused := [])
    assert [type(error) for error in refused] == [NoRoom]
    assert check.overlapping == [True, False]


def test_other_failures_leave_the_old_master_alone():
    """A broken checkpoint is no reason to stop who serves."""

    def broken():
        raise StartError("The checkpoint is broken.")

    refused, said, worker = [], [], StandingWorker(ModelSet({"avibe": ScriptedBackend()}, check=broken))

    def leave(error):
        refused.append(str(error))
        worker.alive = False

    worker.ppid = os.getpid()
    start_models(worker, os.getppid(), said.append, leave)
    assert refused == ["The checkpoint is broken."]
    assert said == []


def test_only_the_living_parent_is_one():
    """A process is looked up anew each time, so a number that was given away again is no parent."""
    assert is_parent(os.getppid(), os.getpid())
    assert not is_parent(os.getpid(), os.getpid())
    assert not is_parent(os.getpid(), NO_PROCESS)


def test_failed_load_leaves_from_any_thread_with_its_status():
    """The process ends at once with one sentence and the status that Gunicorn reads."""
    code = (
        "import threading; from engine.errors import StartError; from serving.startup import leave_process\n"
        "threading.Thread(target=leave_process(3), args=(StartError('no model.'),)).start()\n"
        "threading.Event().wait(60)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 3
    assert run.stderr == "The service cannot start: no model.\n"
