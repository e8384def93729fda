"""Processes that end with all that they started, so that none keeps the card from the next part."""

from __future__ import annotations

import contextlib
import subprocess

import psutil


def ended_within(process: subprocess.Popen[str], seconds: float) -> int | None:
    """Return the exit status of a process, None if it had to be killed; nothing that it started lives on."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        kill_tree(process)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Kill a process and its descendants, and wait for it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        for one in (*parent.children(recursive=True), parent):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()
