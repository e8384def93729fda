"""Streams at a steady rate through the service, and the kill of one replica in their middle."""

from __future__ import annotations

import http.client
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.harness.targets import Verdict, judged
from benchmarks.upstream_trial import client
from benchmarks.upstream_trial.trial import CHAT, MODEL, text_of, told

TYPED = 1.0  # seconds within which a stream whose replica was killed ends in its error
AGAIN = 90.0  # seconds within which both replicas answer again
PID = re.compile(r"pid(\d+)")
CODE = "upstream_error"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request. pid: of the replica whose text has begun to come, None if none has; errors: codes that came.

    ended: by time.monotonic; whole: whether the answer came to its end.
    """

    pid: int | None
    errors: tuple[str, ...]
    ended: float
    whole: bool


def send(address: str, client_number: int = 0) -> Sent:
    """Ask for one stream as one of several clients, and read it to its end."""
    pid, errors, whole = None, [], False
    headers = {"X-Forwarded-For": f"10.0.0.{client_number + 1}"}
    try:
        with client.stream(address, CHAT, ASKED, headers=headers) as stream:
            if stream.status != 200:
                errors.append(told(stream.body, "code") or f"status {stream.status}")
            for event in stream if stream.status == 200 else ():
                whole = whole or event.data is None
                if found := PID.search(text_of(event)):
                    pid = int(found[1])
                if code := told(event.data, "code"):
                    errors.append(code)
    except (OSError, http.client.HTTPException, ValueError) as error:
        errors.append(type(error).__name__)
    return Sent(pid, tuple(errors), time.monotonic(), whole and not errors)


def replicas(address: str, count: int, without: int | None = None, seconds: float = AGAIN) -> set[int]:
    """Return the processes that answer, once there are so many, or after some seconds. without: one that is gone."""
    found: set[int] = set()
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(4) as pool:
        while len(found) < count and time.monotonic() < end:
            found |= {sent.pid for sent in pool.map(send, [address] * 4) if sent.pid}
            found -= {without}
    return found


def under_load(address: str, rate: float, seconds: float, clients: int, victim: int) -> tuple[list[Sent], float]:
    """Send streams of some clients in turn, and kill a process in their middle; return them, and when that was.

    rate: of all, a second; victim: the process. The time is that of time.monotonic.
    """
    count, began = int(rate * seconds), time.monotonic()
    killed_at = 0.0
    with ThreadPoolExecutor(count) as pool:
        pending = []
        for number in range(count):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            if number == count // 2:
                os.kill(victim, signal.SIGKILL)
                killed_at = time.monotonic()
            pending.append(pool.submit(send, address, number % clients))
        return [one.result() for one in pending], killed_at


def judge(sent: Sequence[Sent], victim: int, killed_at: float, again: int, replicas: int) -> list[Verdict]:
    """Return the verdicts. victim: the process that was killed; again: how many answered afterwards."""
    failed = [one for one in sent if not one.whole]
    early = [one for one in failed if one.pid is None]
    there = [one for one in failed if one.pid == victim and one.ended >= killed_at]
    untyped = [one for one in there if one.errors != (CODE,)]
    slowest = max((one.ended - killed_at for one in there), default=0.0)
    others = [one for one in failed if one.pid is not None and one not in there]
    return [
        judged("streams were cut by the kill", bool(there), f"{len(there)} of {len(sent)}"),
        judged("none failed that had not begun", not early, _codes(early)),
        judged("each that had begun there ended in one typed error", not untyped, _codes(untyped)),
        judged(f"within {TYPED:g} s of the kill", slowest <= TYPED, f"the latest after {slowest:.2f} s"),
        judged("all others are whole", not others, _codes(others)),
        judged("as many replicas as before answer again", again == replicas, f"{again} of {replicas}"),
    ]


def _codes(sent: Sequence[Sent]) -> str:
    found = Counter(", ".join(one.errors) or "no end" for one in sent)
    return "; ".join(f"{count} times {code}" for code, count in found.most_common()) or "none"
