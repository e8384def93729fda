"""The exercises: what each does to a service, that it is noticed as solved, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import exercise
from deploy.exercise import FILLING, CannotBegin, engine_thread, full_disk, stalled_engine, supervise
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.linux

WORKER = """
import sys, threading, time
from pathlib import Path
from engine.thread_name import name_this_thread
def count(file, name):
    name_this_thread(name)
    for number in range(10**9):
        file.write_text(str(number))
        time.sleep(0.01)
for name in ("engine-avibe", "other"):
    threading.Thread(target=count, args=(Path(sys.argv[1]) / name, name), daemon=True).start()
time.sleep(600)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with an engine's thread and another, each of which counts in a file."""
    with subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)]) as process:
        until(lambda: (tmp_path / "engine-avibe").exists() and (tmp_path / "other").exists())
        yield process
        process.kill()


def test_the_engine_alone_stops_and_goes_on(worker: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """The other threads run on, so that the process answers; after the exercise all is as before."""

    def counted(name: str) -> str:
        return (tmp_path / name).read_text()

    thread = engine_thread(os.getpid(), "avibe")
    with stalled_engine(thread) as solved:
        engine, other = counted("engine-avibe"), counted("other")
        until(lambda: counted("other") not in ("", other))
        assert counted("engine-avibe") == engine
        assert not solved()
    until(lambda: counted("engine-avibe") not in ("", engine))


def test_a_restart_solves_a_stall(worker: subprocess.Popen[bytes]) -> None:
    """However the process ends, also while a thread of it is stopped."""
    with stalled_engine(engine_thread(os.getpid(), "avibe")) as solved:
        threading.Timer(0, worker.kill).start()
        until(solved)
    assert worker.wait(60) == -9


def test_a_model_that_does_not_run_cannot_be_stalled(worker: subprocess.Popen[bytes]) -> None:
    """The message names it; without a service too."""
    with pytest.raises(CannotBegin, match="avision"):
        engine_thread(os.getpid(), "avision")
    with pytest.raises(CannotBegin, match="avibe"):
        engine_thread(0, "avibe")


def small(monkeypatch: pytest.MonkeyPatch, folder: Path, size: int = 1_000_000) -> None:
    """Let the disk of a folder have so many bytes for everybody, less what lies there."""
    real = os.statvfs

    def statvfs(path: Path) -> os.statvfs_result:
        fields = list(real(path))
        fields[1], used = 1, sum(file.stat().st_size for file in folder.iterdir())
        fields[4] = size - used
        return os.statvfs_result(fields)

    monkeypatch.setattr(exercise.os, "statvfs", statvfs)


def test_a_disk_is_filled_and_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is solved once there is room again, whoever makes it; the file is gone afterwards."""
    small(monkeypatch, tmp_path)
    with full_disk(tmp_path, left=1000) as solved:
        assert (tmp_path / FILLING).stat().st_size == 999_000
        assert (tmp_path / FILLING).stat().st_blocks * 512 >= 999_000
        assert not solved()
        (tmp_path / FILLING).unlink()
        assert solved()
    with full_disk(tmp_path, left=1000):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_needs_no_exercise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one begun twice."""
    small(monkeypatch, tmp_path, size=500)
    with pytest.raises(CannotBegin, match="full as it is"), full_disk(tmp_path, left=1000):
        pass
    small(monkeypatch, tmp_path)
    with full_disk(tmp_path, left=1000), pytest.raises(CannotBegin, match="already"), full_disk(tmp_path, left=1000):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_exercise_that_is_ended_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """By Ctrl+C, by kill, and by a terminal that is closed."""
    small(monkeypatch, tmp_path, size=exercise.LEFT + 1000)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(exercise, "supervise", lambda *_: not signal.raise_signal(number))
    try:
        for one in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)
        assert exercise.main(["disk", "--folder", str(tmp_path)]) == 130
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    assert list(tmp_path.iterdir()) == []


def test_an_exercise_ends_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """After its time; one that is solved says after how long."""
    assert not supervise(lambda: False, minutes=0)
    looks = iter([False, True])
    assert supervise(lambda: next(looks), minutes=1, pause=lambda seconds: None)
    assert "Solved after 0 s." in capsys.readouterr().out


def test_what_cannot_begin_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the service, and for a folder that is not there."""
    monkeypatch.setattr(exercise, "main_pid", lambda unit: 0)
    assert exercise.main(["stall"]) == 2
    assert exercise.main(["disk", "--folder", "/none/such"]) == 2
    assert capsys.readouterr().err.count("Error: ") == 2
