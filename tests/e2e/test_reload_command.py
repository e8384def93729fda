"""`deploy.reload`, which `systemctl reload` runs, with a real Gunicorn: what it waits for, and when it fails."""

import contextlib
import signal
import subprocess
import sys

import pytest

from deploy.reload import find_process
from tests.e2e.gunicorn_process import PATIENCE, ROOT, until

pytestmark = [pytest.mark.slow, pytest.mark.linux]


@pytest.fixture
def start(gunicorn, tmp_path):
    """Start a service that writes its readiness to a folder, as under systemd; return it ready."""

    def started(**settings):
        (tmp_path / "runtime").mkdir(exist_ok=True)
        # Nothing listens on this socket; only its presence counts.
        notify = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "RUNTIME_DIRECTORY": str(tmp_path / "runtime")}
        server = gunicorn(**notify | settings)
        server.say("load")
        server.ready()
        return server

    return started


@pytest.fixture
def reload(tmp_path):
    """Start the command for a master; `communicate` returns its output."""

    def started(master):
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.reload", str(master)],
            cwd=ROOT,
            env={"RUNTIME_DIRECTORY": str(tmp_path / "runtime")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def outcome(process):
    """Return exit status, output and errors."""
    said, complained = process.communicate(timeout=PATIENCE * 2)
    return process.returncode, said, complained


def test_it_ends_when_the_new_one_serves_and_the_old_one_is_gone(start, reload):
    """Twice in a row, without a pause in which a master would ignore the signal."""
    server = start()
    masters = [server.process.pid]
    for _ in range(2):
        status, said, complained = outcome(reload(masters[-1]))
        assert (status, complained) == (0, "")
        assert "The new release serves" in said
        assert find_process(masters[-1]) is None
        masters.append(server.answering()["master"])
        assert server.answering()["ready"]
    assert len(set(masters)) == 3


def test_release_that_cannot_load_is_a_failure(start, reload):
    """The old master keeps serving, and the command says so."""
    server = start()
    server.say("load", "broken")
    status, _, complained = outcome(reload(server.process.pid))
    assert status == 1
    assert "exited before it was ready" in complained
    assert "The previous one keeps serving." in complained
    assert server.answering()["master"] == server.process.pid


def test_release_that_loses_its_worker_is_stopped(start, reload):
    """Gunicorn would retry forever with the next worker: the new master is stopped instead."""
    server = start()
    (server.folder / "load").unlink()
    command = reload(server.process.pid)
    until(lambda: server.log().count("Loading avibe") == 2)
    new = next(pid for pid in server.masters() if pid != server.process.pid)
    master = find_process(new)

    def worker_is_lost():
        # The command may not have seen the first worker yet, so each next one is killed as well.
        for worker in master.children():
            with contextlib.suppress(ProcessLookupError):
                server.send(worker, signal.SIGKILL)
        return command.poll() is not None

    until(worker_is_lost)
    status, _, complained = outcome(command)
    assert status == 1
    assert "lost its worker" in complained
    until(lambda: server.masters() == [server.process.pid])


def test_cancelled_reload_leaves_the_old_one(start, reload):
    """SIGTERM, as systemd sends it when a reload takes too long, stops the new master as well."""
    server = start()
    (server.folder / "load").unlink()
    command = reload(server.process.pid)
    until(lambda: server.log().count("Loading avibe") == 2)
    command.terminate()
    status, _, complained = outcome(command)
    assert status == 1
    assert "cancelled" in complained
    until(lambda: server.masters() == [server.process.pid])
    assert server.answering()["ready"]


def test_service_that_ends_meanwhile_is_a_failure(start, reload):
    """A master that exits before it starts another is a failure."""
    server = start()
    server.signal(signal.SIGSTOP)
    command = reload(server.process.pid)
    server.signal(signal.SIGKILL)
    server.process.wait(PATIENCE)
    status, _, complained = outcome(command)
    assert status == 1
    assert "The previous one has exited too." in complained


@pytest.mark.parametrize("arguments", [[], ["x"], ["1", "2"]])
def test_wrong_arguments_print_the_usage(arguments):
    """It takes one argument, the pid of the master."""
    run = subprocess.run(
        [sys.executable, "-m", "deploy.reload", *arguments],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 2
    assert "python -m deploy.reload MAINPID" in run.stderr


def test_process_that_is_gone_cannot_be_reloaded(reload):
    """There is no process to signal."""
    status, _, complained = outcome(reload(2**22 + 1))
    assert status == 1
    assert "is not running" in complained
