"""Count how many requests of typical size run at once on a processor: as many as the blocks of the KV cache hold.

    python -m benchmarks.at_once [--text FOLDER] [--clients N] [--seconds N] [--least N] [--results FOLDER]

A real Gunicorn with a model of Qwen3-0.6B's shape in bfloat16 and MAX_NUM_SEQS=256, else with its defaults. Each client
sends one request after the other. The most that ran at once, by the service's own metrics, is to be at least four times
the slots that a service has which gives each request the memory of a whole context: on 24 GiB that was 20, --least 80.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import record, servers
from benchmarks.harness.checkpoints import SMALL_QWEN3, checkpoint
from benchmarks.harness.targets import Verdict, exit_status, judged
from engine.loading.memory_budget import TYPICAL_TOKENS

ROWS = "256"
ANSWER = 120  # tokens; the prompt has the rest of a typical request
CONTEXT = 4096
LOOK_SECONDS = 1.0
TABLE = re.compile(r"avibe:\s+KV cache\s+.*?([\d,]+) tokens: ([\d.]+) contexts")
RUNNING = re.compile(r'^avito_ai_num_requests_running\{[^}]*model="avibe"[^}]*\} (\S+)', re.MULTILINE)
PREEMPTED = re.compile(r'^avito_ai_preemptions_total\{[^}]*model="avibe"[^}]*\} (\S+)', re.MULTILINE)


@dataclass
class Count:
    """What was seen. most: requests that ran at once; preempted: until then; failures: what other statuses said."""

    most: int = 0
    preempted: int = 0
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def look(self, metrics: str) -> None:
        """Take the service's own figures."""
        if (running := sum(int(float(value)) for value in RUNNING.findall(metrics))) > self.most:
            self.most = running
            self.preempted = sum(int(float(value)) for value in PREEMPTED.findall(metrics))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 if fewer ran at once than there should."""
    options = _options(argv)
    facts = record.facts(("torch", "gunicorn", "flask"))
    with checkpoint(SMALL_QWEN3, options.text) as text, tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        server = servers.ours("at once", text, None, CONTEXT, weights="bfloat16")
        server = replace(server, env={**server.env, "MAX_NUM_SEQS": ROWS, "MAX_WAITING": ROWS, "STATE_DIR": folder})
        with servers.running(server, log) as address:
            tokens, contexts = room(log.read_text(encoding="utf-8"))
            count = measure(address, options.clients, options.seconds)
    cells = [f"{tokens:,}", f"{contexts:g}", str(tokens // TYPICAL_TOKENS), str(options.clients), str(count.most)]
    header = ("KV cache, tokens", "whole contexts", f"requests of {TYPICAL_TOKENS}", "clients", "most at once")
    table = record.table((*header, "preempted until then"), [(*cells, str(count.preempted))])
    verdicts = judge(count, options.least)
    print("\n\n".join([table, *map(str, verdicts)]))
    if options.results:
        content = {"tokens": tokens, "contexts": contexts, **vars(count)}
        title = "Requests of typical size at once"
        record.write("at_once", facts, content, title, [table, *map(str, verdicts)], options.results)
    return exit_status(verdict.word for verdict in verdicts)


def judge(count: Count, least: int) -> list[Verdict]:
    """Return the verdicts. least: how many should run at once."""
    return [
        judged(f"at least {least} requests at once", count.most >= least, str(count.most)),
        judged("no request fails", not count.failures, "; ".join(count.failures[:3]) or f"{count.answered} answered"),
    ]


def room(log: str) -> tuple[int, float]:
    """Return the tokens and the whole contexts of the KV cache, as the table of the start says."""
    found = TABLE.search(log)
    assert found is not None, log[-2000:]
    return int(found[1].replace(",", "")), float(found[2])


def measure(address: str, clients: int, seconds: float) -> Count:
    """Count while so many clients send requests; what they wait for at the end is left."""
    count, end = Count(), time.monotonic() + seconds
    for number in range(clients):
        threading.Thread(target=_ask_on, args=(address, number, count, end), daemon=True).start()
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
            count.look(answer.read().decode())
    return count


def _ask_on(address: str, number: int, count: Count, end: float) -> None:
    rng = random.Random(number)
    while time.monotonic() < end:
        prompt = rng.choices(range(256, 2000), k=TYPICAL_TOKENS - ANSWER)
        body: dict[str, Any] = {"model": "avibe", "prompt": prompt, "max_tokens": ANSWER, "ignore_eos": True}
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", data, headers)).read()
        except urllib.error.HTTPError as error:
            count.failures.append(f"{error.code}: {error.read()[:200].decode(errors='replace')}")
            return
        except OSError as error:
            if time.monotonic() < end:  # else the service was stopped
                count.failures.append(repr(error))
            return
        count.answered += 1


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=Path, help=f"a text model (by default that of make_model --kind {SMALL_QWEN3})")
    parser.add_argument("--clients", type=int, default=112)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--least", type=int, default=80, help="requests that should run at once")
    parser.add_argument("--results", type=Path, help="folder for at_once.json and at_once.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
