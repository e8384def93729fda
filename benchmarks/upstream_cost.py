"""Measure what the service adds in front of a server that answers for a model, beside LiteLLM's proxy if it is there.

    python -m benchmarks.upstream_cost [--litellm PATH] [--requests N] [--streams N] [--seconds N] [--results FOLDER]

Two measures, each of our service and of LiteLLM's proxy:
- to the first text, over kept connections, directly and through the proxy in turn, round by round, in blocks of one
  proxy each: one request at a time, and 32 at once of a server that takes 0.3 s to its first token, as models do. (Of
  one that answers at once, 32 clients would measure how many requests a second are served: their processor time says
  that.) A later token takes it 10 ms. What is added is the difference of the medians.
- many open streams of ten events a second: processor time of an event, and how late the latest came, by the rhythm of
  its stream. Server, stub and reader are processes of their own, so that each one's share is known.

On a machine that others use, it measures how long they are waited for, unless it goes before them (`chrt --rr 1`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import record
from benchmarks.harness.servers import Server, running
from benchmarks.harness.targets import Verdict, Word, exit_status, judged
from benchmarks.upstream_load.first_text import Client

PACKAGES = ("aiohttp", "flask", "gunicorn")
PATH = "/chat/completions"
EVENTS = 4  # of an answer whose first text is timed
GAP = 0.1  # seconds between two events of a stream
TARGET_MS, TARGET_EVENT_MS, TARGET_LATE_S = 2.0, 0.1, 1.0
OURS, LITELLM, DIRECT = "ours", "LiteLLM", "direct"
BLOCK = 20  # rounds of one proxy before those of the other
KEY = f"sk-{secrets.token_hex(32)}"  # LiteLLM does not start without one
CONFIG = """model_list:
  - model_name: avibe
    litellm_params: {model: openai/avibe, api_base: "%s", api_key: none}
litellm_settings: {telemetry: false, num_retries: 2}
"""


@dataclass(frozen=True)
class Load:
    """How the first texts are asked for. count: of requests at once; wait, gap: of the server, to its first token and
    to each later one, in seconds.
    """

    name: str
    count: int
    wait: float = 0.0
    gap: float = 0.01


LOADS = (Load("1 at once", 1), Load("1 at once, in one piece", 1, gap=0.0), Load("32 at once", 32, wait=0.3))


@dataclass(frozen=True)
class Proxy:
    """A proxy that runs. pids: of its processes."""

    url: str
    pids: list[int]


@dataclass
class Added:
    """Seconds to the first text, directly and through a proxy in turn, and the processor time of that proxy."""

    direct: list[float] = field(default_factory=list)
    through: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return what the proxy adds to a request, in milliseconds."""
        medians, means = (
            [of(side) for side in (self.direct, self.through)] for of in (statistics.median, statistics.mean)
        )
        return {
            "direct_ms": medians[0] * 1000,
            "added_ms": (medians[1] - medians[0]) * 1000,
            "added_mean_ms": (means[1] - means[0]) * 1000,
            "cpu_ms": self.cpu / len(self.through) * 1000,
            "requests": len(self.through),
            "load_average": os.getloadavg()[0],
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the results and return 1 if a target is missed."""
    options = _options(argv)
    first = {load.name: _first_texts(load, options) for load in LOADS}
    streams = {name: _streams(name, options) for name in _names(options)}
    rows = [
        [
            f"added to the first text, {load}, ms: {name}",
            f"{one['added_ms']:.2f}",
            f"{one['added_mean_ms']:.2f}",
        ]
        + [f"{one['cpu_ms']:.2f}"]
        for load, measured in first.items()
        for name, one in measured.items()
    ]
    table = record.table(["", "median", "mean", "processor time of a request, ms"], rows)
    shown = [
        [name, f"{one['events_a_second']:.0f}", f"{one['cpu_ms_an_event'][name]:.3f}", f"{one['cores'][name]:.2f}"]
        + [f"{one['cores']['stub']:.2f}", f"{one['cores']['reader']:.2f}", f"{one['latest_s']:.2f}"]
        + [f"{one['stub_latest_s']:.2f}", str(one["failed"])]
        for name, one in streams.items()
    ]
    header = [f"{options.streams} streams", "events/s", "processor time of an event, ms", "cores", "of the stub"]
    header += ["of the reader", "latest event, s", "of them by the stub", "failed"]
    verdicts = judge({load: measured[OURS] for load, measured in first.items()}, streams[OURS])
    tables = [table, record.table(header, shown), *map(str, verdicts)]
    print("\n\n".join(tables))
    if options.results:
        facts, title = record.facts(PACKAGES), "What the service adds in front of another server"
        content = {"first_text": first, "streams": streams, "load_average_after": os.getloadavg()[0]}
        record.write("upstream_cost", facts, content, title, tables, options.results)
    return exit_status(verdict.word for verdict in verdicts)


def judge(first: dict[str, dict[str, float]], streams: dict[str, Any]) -> list[Verdict]:
    """Return the verdicts on our service. first: the figures by the name of the load; streams: of the streams."""
    found = [
        judged(
            f"at most {TARGET_MS:g} ms added to the first text, {load}",
            one["added_ms"] <= TARGET_MS,
            f"{one['added_ms']:.2f} ms",
        )
        for load, one in first.items()
    ]
    cpu, latest = streams["cpu_ms_an_event"][OURS], streams["latest_s"]
    ends = [
        judged(f"at most {TARGET_EVENT_MS:g} ms of processor time an event", cpu <= TARGET_EVENT_MS, f"{cpu:.3f} ms"),
        judged(f"no event more than {TARGET_LATE_S:g} s late", latest <= TARGET_LATE_S, f"{latest:.2f} s"),
    ]
    if failed := streams["failed"]:
        ends = [Verdict(one.target, Word.NOT_COMPARABLE, f"{one.found}, {failed} streams failed") for one in ends]
    return found + ends


def _first_texts(load: Load, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    answers = ("--first", str(load.wait), "--gap", str(load.gap), "--events", str(EVENTS))
    with _stub(*answers) as (stub, _), ExitStack() as proxies:
        started = {name: proxies.enter_context(_proxy(name, stub, options)) for name in _names(options)}
        urls = {DIRECT: f"{stub}{PATH}"} | {name: f"{one.url}/v1{PATH}" for name, one in started.items()}
        return asyncio.run(_in_turn(urls, started, load, options.requests))


async def _in_turn(
    urls: dict[str, str], proxies: dict[str, Proxy], load: Load, requests: int
) -> dict[str, dict[str, float]]:
    """Return what each proxy adds. A round asks a server so many times at once, at moments spread over its wait."""
    clients = {name: [Client(url, "avibe", KEY) for _ in range(load.count)] for name, url in urls.items()}
    waits = [load.wait * place / load.count for place in range(load.count)]
    for asked in clients.values():  # which opens the connections
        await asyncio.gather(*map(Client.ask, asked, waits))
    found = {name: Added() for name in proxies}
    rounds = max(4, requests // load.count)
    for done in range(0, rounds, BLOCK):
        for name, added in found.items():
            for _ in range(min(BLOCK, rounds - done)):
                added.direct += await asyncio.gather(*map(Client.ask, clients[DIRECT], waits))
                before = _cpu(proxies[name].pids)
                added.through += await asyncio.gather(*map(Client.ask, clients[name], waits))
                added.cpu += _cpu(proxies[name].pids) - before
    return {name: added.figures() for name, added in found.items()}


def _streams(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what the reader has measured of many streams through one server."""
    events = str(int(options.seconds / GAP))
    with _stub("--gap", str(GAP), "--events", events) as (stub, process):
        with _proxy(name, stub, options) as proxy:
            watched = json.dumps({name: proxy.pids, "stub": [process.pid]})
            command = [
                sys.executable,
                "-m",
                "benchmarks.upstream_load.reader",
                f"{proxy.url}/v1{PATH}",
                "avibe",
                watched,
            ]
            command += ["--streams", str(options.streams), "--seconds", str(options.seconds), "--key", KEY]
            done = subprocess.run(command, cwd=record.ROOT, capture_output=True, text=True, check=True)
        process.terminate()
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"stub_latest_s": told["latest_s"]}


@contextmanager
def _stub(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the stub; yield its base URL and its process."""
    command = (sys.executable, "-m", "benchmarks.upstream_load.stub", *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=record.ROOT)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1", process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _proxy(name: str, upstream: str, options: argparse.Namespace) -> Iterator[Proxy]:
    with running(_ours(upstream) if name == OURS else _litellm(options.litellm, upstream), Path(os.devnull)) as url:
        time.sleep(1)
        mine = psutil.Process().children()
        asked = url.rpartition(":")[2]
        found = [one for one in mine if any(asked in part for part in one.cmdline())]
        yield Proxy(url, [each.pid for one in found for each in (one, *one.children(recursive=True))])


def _ours(upstream: str) -> Server:
    """Return the service with a server in the place of both models."""
    env = {
        "ENV_FILE": os.devnull,
        "HOST": "127.0.0.1",
        "DEVICE": "cpu",
        "VIBE_UPSTREAM": upstream,
        "VISION_UPSTREAM": upstream,
        "MAX_NUM_SEQS": "1024",
        "RATE_LIMIT_PER_MINUTE": "0",
        "RATE_LIMIT_PER_HOUR": "0",
        "LOG_LEVEL": "WARNING",
    }
    command = (sys.executable, "-m", "gunicorn", "-c", "gunicorn_config.py", "-b", "127.0.0.1:{port}")
    return Server("the service", (*command, "app_production:app"), "/api/health/ready", env=env)


def _litellm(program: Path, upstream: str) -> Server:
    """Return LiteLLM's proxy in its own recommended form for one process, without a database."""
    config = Path(os.environ.get("TMPDIR", "/tmp")) / f"litellm-{os.getpid()}.yaml"  # nosec B108 # holds no secret
    config.write_text(CONFIG % upstream)
    command = (str(program), "--host", "127.0.0.1", "--port", "{port}", "--config", str(config), "--num_workers", "1")
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_MASTER_KEY": KEY,
    }
    return Server("LiteLLM's proxy", command, "/health/readiness", env=env)


def _cpu(pids: Sequence[int]) -> float:
    """Return the processor time of some processes, in seconds."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def _names(options: argparse.Namespace) -> list[str]:
    return [OURS, LITELLM] if options.litellm else [OURS]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--litellm", type=Path, help="the program `litellm` of an installation of litellm[proxy]")
    parser.add_argument("--requests", type=int, default=640, help="to each, for each number at once")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stream")
    parser.add_argument("--results", type=Path, help="folder for upstream_cost.json and upstream_cost.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
