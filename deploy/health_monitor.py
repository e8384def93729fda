"""Watches the service from outside, run by avito-ai-health.timer: tells when it cannot be used, restarts what hangs.

What others do is left to them. A stalled or dead engine, and a worker whose main loop hangs, are ended by systemd's
watchdog; a process that died is started again by `Restart=`. Neither sees a process that beats and still answers
nobody: that is restarted here, after RESTART_AFTER looks in a row without an answer, and at most MAX_RESTARTS times an
hour. A service that systemd gave up on, or that is stopped, is never started: its reason would still be there.

Telling is a line of the journal at error level, a failed unit (`systemctl --failed`), and, where the file of
`--webhook` holds an address, one message there when trouble begins and one when it ends. With the standard library
alone: `python -m deploy.health_monitor --state FILE [--webhook FILE]`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.probe import fetch_json
from deploy.service import main_pid, unit_property, url_of

UNIT = "avito-ai.service"
ANSWER_SECONDS = 10.0
TELL_AFTER = 2
RESTART_AFTER = 3
MAX_RESTARTS = 3
HOUR = 3600.0
# Unready by its own word, and on its way to be ready or stopped.
PASSING = ("loading", "draining")
PASSING_LOOKS = 40  # twenty minutes, with the timer's thirty seconds
ERROR, NOTICE = "<3>", "<5>"  # levels of the journal


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found. answer: the status of readiness, 0 without one; said: the state in its body."""

    unit: str
    answer: int = 0
    said: str = ""
    reason: str = ""


@dataclass(slots=True)
class Memory:
    """What is kept between looks. told: whether the trouble of now was told; restarts: when, in epoch seconds."""

    silent: int = 0
    unwell: int = 0
    passing: int = 0
    told: bool = False
    restarts: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from a look. trouble: a sentence, "" where all is well; restart: whether to restart now."""

    trouble: str = ""
    restart: bool = False


def look(unit: str = UNIT) -> Look:
    """Ask systemd for the unit's state, and the service for its readiness on the address where it listens now."""
    state = unit_property(unit, "ActiveState")
    if state != "active":
        return Look(state)
    url = url_of(main_pid(unit))
    if url is None:
        return Look(state, reason="its main process listens on no port")
    status, body = fetch_json(f"{url}/api/health/ready", timeout=ANSWER_SECONDS)
    reason = str(body.get("reason", "")) if status else f"no answer from {url} within {ANSWER_SECONDS:.0f} s"
    return Look(state, status, str(body.get("status", "")), reason)


def judge(seen: Look, memory: Memory, now: float) -> Verdict:
    """Count the look into the memory and say what follows."""
    if seen.unit in ("activating", "reloading", "deactivating", "inactive", ""):
        memory.silent = memory.unwell = memory.passing = 0
        return Verdict()
    if seen.unit == "failed":
        memory.silent = memory.passing = 0
        return Verdict("systemd has given the service up; see: journalctl -u avito-ai -e")
    memory.silent = memory.silent + 1 if seen.answer == 0 else 0
    memory.passing = memory.passing + 1 if seen.said in PASSING else 0
    if seen.answer == 200 or 0 < memory.passing < PASSING_LOOKS:
        memory.unwell = 0
        return Verdict()
    memory.unwell += 1
    restart = memory.silent >= RESTART_AFTER and _may_restart(memory, now)
    trouble = f"the service is not ready ({seen.said or 'silent'}): {seen.reason or 'no reason was given'}"
    return Verdict(trouble if memory.unwell >= TELL_AFTER or restart else "", restart)


def _may_restart(memory: Memory, now: float) -> bool:
    memory.restarts = [then for then in memory.restarts if now - then < HOUR]
    return len(memory.restarts) < MAX_RESTARTS


def act(
    verdict: Verdict, memory: Memory, now: float, tell: Callable[[str], None], restart: Callable[[], None]
) -> list[str]:
    """Do what the verdict says; return the lines for the journal."""
    lines = []
    if verdict.trouble:
        lines.append(f"{ERROR}{verdict.trouble}")
        if not memory.told:
            tell(f"Avito AI API: {verdict.trouble}")
    elif memory.told:
        lines.append(f"{NOTICE}the service is well again")
        tell("Avito AI API is well again.")
    memory.told = bool(verdict.trouble)
    if verdict.restart:
        lines.append(f"{ERROR}it beats for systemd's watchdog and answers nobody: restarting it")
        memory.restarts.append(now)
        memory.silent = 0
        restart()
    return lines


def recall(path: Path) -> Memory:
    """Return what was kept; a file that cannot be read counts as none."""
    try:
        return Memory(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Memory()


def keep(memory: Memory, path: Path) -> None:
    """Keep the memory for the next look."""
    path.write_text(json.dumps(asdict(memory)))


def post(address: str, text: str) -> None:
    """Send a message as Slack's incoming webhooks take it; trouble with that is a line of its own and no more."""
    body = json.dumps({"text": text}).encode()
    try:
        question = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(question, timeout=ANSWER_SECONDS):
            pass
    except (OSError, ValueError) as error:
        print(f"{ERROR}the webhook was not reached: {error}", flush=True)


def teller(webhook: Path | None) -> Callable[[str], None]:
    """Return what tells the people whom the journal does not reach."""
    try:
        address = webhook.read_text().strip() if webhook else ""
    except OSError:
        address = ""
    return (lambda text: post(address, text)) if address else (lambda text: None)


def restart_unit() -> None:
    """Ask systemd for the restart without waiting for the models."""
    subprocess.run(["systemctl", "restart", "--no-block", UNIT], check=False)


def main(arguments: list[str], restart: Callable[[], Any] = restart_unit) -> int:
    """Look once; the exit status is 1 while there is trouble to be told."""
    parser = argparse.ArgumentParser(prog="health_monitor")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--webhook", type=Path)
    options = parser.parse_args(arguments)
    memory, now = recall(options.state), time.time()
    verdict = judge(look(), memory, now)
    for line in act(verdict, memory, now, teller(options.webhook), restart):
        print(line, flush=True)
    keep(memory, options.state)
    return 1 if verdict.trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
