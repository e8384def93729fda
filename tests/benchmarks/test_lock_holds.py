"""What is observed of the interpreter lock."""

import subprocess
import sys

import pytest

from benchmarks.harness.lock_watch import Wait, read
from benchmarks.lock_holds import row

HOLDING = """
import sys, threading, time
from pathlib import Path
from benchmarks.harness.lock_watch import LockWatch, read

path, text = Path(sys.argv[1]), b"%" * 20_000_000
begin = threading.Event()

def hold():
    begin.wait()
    while not any(wait.thread == "holder" and wait.held > 0.01 for wait in read(path)):
        text.split(b"%")

threading.Thread(target=hold, name="holder").start()
LockWatch(path).start()
begin.set()
"""


@pytest.mark.linux
def test_who_holds_the_lock_in_one_call_is_found(tmp_path):
    """By the processor time of the call, in which nobody else can run Python."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "waits")]
    subprocess.run(command, check=True, timeout=120)
    longest = max(read(tmp_path / "waits"), key=lambda wait: wait.held)
    assert longest.thread == "holder"
    assert longest.held <= longest.waited


def test_a_load_is_told_by_its_longest_hold():
    """Waits for a core are no holds; a line that is not whole yet is none."""
    waits = [Wait(1, 0.0, 0.5, 0.1, 0.03, "a"), Wait(1, 1.0, 0.02, 0.9, 0.004, "b"), Wait(1, 2.0, 0.0, 0.2, 0.0, "c")]
    assert row("load", 3, waits) == ["load", "3", "2", "1", "30.0", "a", "900"]
    assert row("none", 1, []) == ["none", "1", "0", "0", "none", "", "0"]


def test_a_line_that_is_not_whole_is_left_for_later(tmp_path):
    """It is written while it is read."""
    path = tmp_path / "waits"
    assert read(path) == []
    path.write_text('{"process":1,"moment":1,"waited":2,"queued":3,"held":4,"thread":"a"}\n{"process":')
    assert read(path) == [Wait(1, 1, 2, 3, 4, "a")]
