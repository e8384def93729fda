"""logrotate of the service's log: no line is lost, and the service gets no signal."""

import getpass
import grp
import gzip
import logging
import os
import subprocess
import threading

import pytest

from telemetry.logs import LogFile
from tests.deploy.proxies import edited
from tests.e2e.gunicorn_process import until
from tests.system_process import ROOT
from tests.system_programs import program

CONFIGURATION = ROOT / "deploy/logrotate/avito-ai"
WRITERS, ROTATIONS = 4, 6


@pytest.fixture
def folder(tmp_path):
    """A log folder as `LogsDirectory` creates it: accessible to its owner only."""
    folder = tmp_path / "log"
    folder.mkdir(mode=0o750)
    return folder


@pytest.fixture
def logrotate(folder, tmp_path):
    """Run logrotate on that folder with the file of this repository, as the current user."""
    who = f"su {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}"
    edits = {"/var/log/avito-ai/*.log": f"{folder}/*.log", "su avito-ai avito-ai": who}
    text = edited(CONFIGURATION.read_text(), edits)
    configuration = tmp_path / "avito-ai"
    configuration.write_text(text)
    configuration.chmod(0o644)

    def run(*options):
        command = [program("logrotate"), *options, "--state", str(tmp_path / "state"), str(configuration)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    return run


def all_lines(folder):
    """Return every line of every file, compressed ones too."""
    lines = []
    for file in folder.iterdir():
        opened = gzip.open(file, "rt") if file.suffix == ".gz" else file.open()
        with opened as stream:
            lines += stream.read().splitlines()
    return lines


@pytest.mark.needs("logrotate")
def test_file_says_nothing_that_logrotate_objects_to(logrotate, folder):
    """`logrotate -d` reads it without an error and would rotate the files."""
    (folder / "service.log").write_text("line\n")
    tried = logrotate("-d", "-f")
    assert tried.returncode == 0
    assert "error" not in tried.stderr.lower()
    assert "renaming" in tried.stderr


def test_file_moves_and_never_copies_or_signals():
    """No truncation and no script that reloads the service."""
    words = [line.split()[0] for line in CONFIGURATION.read_text().splitlines() if line.strip() and line[0] != "#"]
    assert not {"copytruncate", "copy", "postrotate", "prerotate", "create", "sharedscripts"} & set(words)
    assert {"su", "nocreate", "delaycompress"} <= set(words)


@pytest.mark.needs("logrotate")
def test_no_line_is_lost_while_threads_write_and_the_file_is_rotated(logrotate, folder):
    """Four threads write through two handlers, as in a reload; no line is missing after six rotations."""
    handlers = [LogFile(str(folder / "service.log")) for _ in range(2)]
    stop, counts = threading.Event(), [0] * WRITERS

    def write(number):
        while not stop.is_set():
            message = f"{number}-{counts[number]}"
            handlers[number % 2].handle(logging.LogRecord("x", logging.INFO, "x", 1, message, None, None))
            counts[number] += 1

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for _ in range(ROTATIONS):
        seen = sum(counts)
        until(lambda seen=seen: sum(counts) >= seen + 200)
        rotated = logrotate("-f")
        assert rotated.returncode == 0, rotated.stderr
    stop.set()
    for writer in writers:
        writer.join(60)
    for handler in handlers:
        handler.close()
    expected = [f"{number}-{line}" for number in range(WRITERS) for line in range(counts[number])]
    assert sorted(all_lines(folder)) == sorted(expected)
    assert len(list(folder.glob("*.gz"))) == ROTATIONS - 1, "the newest one stays uncompressed"


@pytest.mark.needs("logrotate")
def test_rotation_keeps_two_weeks(logrotate, folder):
    """The fifteenth rotation drops the oldest file; an empty log is not rotated."""
    for number in range(17):
        (folder / "service.log").write_text(f"day {number}\n")
        assert logrotate("-f").returncode == 0
    assert len(list(folder.iterdir())) == 14
    (folder / "service.log").write_text("")
    assert logrotate("-f").returncode == 0
    assert (folder / "service.log").exists()
