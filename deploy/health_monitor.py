"""Monitors the service from outside, run by avito-ai-health.timer: reports when it is unusable, restarts a hung one.

systemd's watchdog ends a stalled or dead engine and a worker whose main loop hangs, and `Restart=` restarts a process
that died. Neither notices a process that sends keep-alives but does not respond: this one is restarted here, after
RESTART_AFTER checks in a row without a response, at most MAX_RESTARTS times an hour. A service that systemd has given
up on, or that is stopped, is never started: the cause would still be there.

Problems are reported as a line of the journal at error level, as a failed unit (`systemctl --failed`), and by one
message when a problem begins and one when it ends: to the URL in the file of `--webhook`, and by mail as the
monitoring's settings in the file of `--mail` say. Standard library only:
`python -m deploy.health_monitor --state FILE [--webhook FILE] [--mail FILE]`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.health_mail import MailError, send
from deploy.probe import fetch_json
from deploy.service import main_pid, unit_property, url_of

UNIT = "avito-ai.service"
ANSWER_SECONDS = 10.0
REPORT_AFTER = 2
RESTART_AFTER = 3
MAX_RESTARTS = 3
HOUR = 3600.0
# States of readiness that pass by themselves.
PASSING = ("loading", "draining")
PASSING_CHECKS = 40  # 20 minutes at the timer's 30 s
ERROR, NOTICE = "<3>", "<5>"  # log levels of the journal


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. answer: HTTP status of readiness, 0 for no response; status: the state in its body."""

    unit: str
    answer: int = 0
    status: str = ""
    reason: str = ""


@dataclass(slots=True)
class Memory:
    """The state kept between checks.

    silent, unwell, passing: checks in a row with that result; reported: whether the current problem was;
    restarts: their times in seconds since the epoch.
    """

    silent: int = 0
    unwell: int = 0
    passing: int = 0
    reported: bool = False
    restarts: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The consequence of a check. trouble: the problem in a sentence, "" if there is none; restart: restart now."""

    trouble: str = ""
    restart: bool = False


def check(unit: str = UNIT) -> Check:
    """Return the unit's state from systemd and the service's readiness, at the address on which it listens."""
    state = unit_property(unit, "ActiveState")
    if state != "active":
        return Check(state)
    url = url_of(main_pid(unit))
    if url is None:
        return Check(state, reason="its main process listens on no port")
    status, body = fetch_json(f"{url}/api/health/ready", timeout=ANSWER_SECONDS)
    reason = str(body.get("reason", "")) if status else f"no answer from {url} within {ANSWER_SECONDS:.0f} s"
    return Check(state, status, str(body.get("status", "")), reason)


def judge(seen: Check, memory: Memory, now: float) -> Diagnosis:
    """Add the check to the memory and return its consequence."""
    if seen.unit in ("activating", "reloading", "deactivating", "inactive", ""):
        memory.silent = memory.unwell = memory.passing = 0
        return Diagnosis()
    if seen.unit == "failed":
        memory.silent = memory.passing = 0
        return Diagnosis("systemd has given up on the service; see: journalctl -u avito-ai -e")
    memory.silent = memory.silent + 1 if seen.answer == 0 else 0
    memory.passing = memory.passing + 1 if seen.status in PASSING else 0
    if seen.answer == 200 or 0 < memory.passing < PASSING_CHECKS:
        memory.unwell = 0
        return Diagnosis()
    memory.unwell += 1
    restart = memory.silent >= RESTART_AFTER and _may_restart(memory, now)
    trouble = f"the service is not ready ({seen.status or 'silent'}): {seen.reason or 'no reason given'}"
    return Diagnosis(trouble if memory.unwell >= REPORT_AFTER or restart else "", restart)


def _may_restart(memory: Memory, now: float) -> bool:
    memory.restarts = [then for then in memory.restarts if now - then < HOUR]
    return len(memory.restarts) < MAX_RESTARTS


def act(diagnosis: Diagnosis, memory: Memory, now: float, restart: Callable[[], None]) -> tuple[list[str], str]:
    """Restart what is to be; return the lines for the journal, and the message to send, "" for none."""
    lines, message = [], ""
    if diagnosis.trouble:
        lines.append(f"{ERROR}{diagnosis.trouble}")
        message = "" if memory.reported else f"Avito AI API: {diagnosis.trouble}"
    elif memory.reported:
        lines.append(f"{NOTICE}the service has recovered")
        message = "Avito AI API has recovered."
    if diagnosis.restart:
        lines.append(f"{ERROR}it sends watchdog keep-alives but does not respond: restarting it")
        memory.restarts.append(now)
        memory.silent = 0
        restart()
    return lines, message


def recall(path: Path) -> Memory:
    """Return the stored state; an unreadable file counts as none."""
    try:
        return Memory(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return Memory()


def keep(memory: Memory, path: Path) -> None:
    """Write the state for the next check."""
    path.write_text(json.dumps(asdict(memory)))


def post(address: str, text: str) -> None:
    """Send a message in the format of Slack's incoming webhooks; an error is only logged, without the address.

    The address is a secret, which the texts of some errors quote.
    """
    body = json.dumps({"text": text}).encode()
    try:
        outgoing = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(outgoing, timeout=ANSWER_SECONDS):  # nosec B310 # the operator names the address
            pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"{ERROR}the webhook cannot be reached: {_kind(error)}", flush=True)


def _kind(error: Exception) -> str:
    """Return what an error is, without its text: the status of an answer, or a type."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    reason = getattr(error, "reason", None)
    return type(reason if isinstance(reason, Exception) else error).__name__


def reporter(webhook: Path | None, mail: Path | None = None) -> Callable[[str], None]:
    """Return a function that sends a message to the webhook and by mail, where they are set."""
    try:
        address = webhook.read_text().strip() if webhook else ""
    except OSError:
        address = ""
    except ValueError:
        address = ""
        print(f"{ERROR}{webhook} is not a text", flush=True)

    def report(text: str) -> None:
        if address:
            post(address, text)
        try:
            if mail:
                send(mail, text)
        except MailError as error:
            print(f"{ERROR}{error}", flush=True)

    return report


def restart_unit() -> None:
    """Restart the unit without waiting for the models."""
    subprocess.run(["systemctl", "restart", "--no-block", UNIT], check=False)


def main(arguments: list[str], restart: Callable[[], None] = restart_unit) -> int:
    """Check once; the exit status is 1 if there is a problem to report."""
    parser = argparse.ArgumentParser(prog="python -m deploy.health_monitor")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--webhook", type=Path)
    parser.add_argument("--mail", type=Path)
    options = parser.parse_args(arguments)
    memory, now = recall(options.state), time.time()
    diagnosis = judge(check(), memory, now)
    lines, message = act(diagnosis, memory, now, restart)
    for line in lines:
        print(line, flush=True)
    keep(memory, options.state)
    # Last: whatever a webhook or a mail server does, or fails to do within the unit's time, it holds up nothing else.
    if message:
        reporter(options.webhook, options.mail)(message)
        memory.reported = bool(diagnosis.trouble)
        keep(memory, options.state)
    return 1 if diagnosis.trouble else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
