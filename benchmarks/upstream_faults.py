"""Ask a server that fails in every way, through the service's client of it: each answer is right, or one typed error.

    python -m benchmarks.upstream_faults [--requests N] [--rate SHARE] [--at-once N] [--results FOLDER]

A scripted server breaks a share of its answers: resets, silence in the middle, 500, 429, nonsense, half a stream. Every
other request streams. At the end, each answer was whole or a typed error within its time, as many were whole as had no
fault, and no thread, no socket and no descriptor is left. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.harness import record
from benchmarks.harness.targets import Verdict, exit_status, judged
from config import Upstream
from engine.errors import ServiceError
from engine.types import ChatPrompt, GenerationRequest, SamplingParams
from tests.fake_upstream import Script, fake_upstream
from upstream.backend import UpstreamBackend
from upstream.loop import UpstreamLoop

PROMPT = ChatPrompt(({"role": "user", "content": "Hello"},))
IDLE = 0.5  # seconds after which silence is a failure
SETTLED = 10.0  # seconds within which what a stopped backend held is given back
PACKAGES = ("aiohttp", "psutil")


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print what came of it and return 1 if anything was wrong."""
    options = _options(argv)
    facts, before, began = record.facts(PACKAGES), held(), time.monotonic()
    outcomes, wrong = run(options.requests, options.rate, options.at_once)
    seconds = time.monotonic() - began
    after = at_rest(before)
    ends = record.table(("outcome", "requests"), [(name, str(count)) for name, count in outcomes.most_common()])
    kept = record.table(("kept", "before", "after"), [(name, str(before[name]), str(after[name])) for name in before])
    verdicts = judge(outcomes, wrong, options.rate, before, after)
    tables = [ends, kept, *map(str, verdicts)]
    print("\n\n".join(tables))
    if options.results:
        content = {"seconds": seconds, "outcomes": outcomes, "wrong": wrong, "before": before, "after": after}
        title = "Requests to a server that fails in every way"
        record.write("upstream_faults", facts, content, title, tables, options.results)
    return exit_status(verdict.word for verdict in verdicts)


def judge(
    outcomes: Counter[str], wrong: Sequence[str], rate: float, before: Mapping[str, int], after: Mapping[str, int]
) -> list[Verdict]:
    """Return the verdicts. rate: the share of answers with a fault; before, after: what was held then, by name."""
    least, right = 1 - rate, outcomes["right"] / outcomes.total()
    left = {name: after[name] - before[name] for name in before}
    return [
        judged("every request ends right or typed", not wrong, "; ".join(wrong[:10]) or "each"),
        judged(f"at least {least:.1%} of them right", right >= least, f"{right:.1%}"),
        *(judged(f"no more {name} than before", more <= 0, f"{more:+}") for name, more in left.items()),
    ]


def run(requests: int, rate: float, at_once: int) -> tuple[Counter[str], list[str]]:
    """Return how often each outcome came, and a sentence for each request that ended neither right nor typed."""
    with fake_upstream(Script(rate=rate)) as server:
        expected = "".join(server.script.words)
        upstream = Upstream("avibe", (server.url,), "m", idle_timeout=IDLE, breaker_failures=1000, probe_seconds=0)
        backend = UpstreamBackend(upstream, UpstreamLoop(), 4096, 2 * at_once)
        backend.start()
        try:
            with ThreadPoolExecutor(at_once) as pool:
                ends = list(pool.map(lambda number: _ask(backend, number, expected), range(requests)))
        finally:
            backend.stop(10)
        wrong = [end for end in ends if end.startswith("wrong")]
        if backend.stats().num_requests_running:
            wrong.append("wrong: requests are counted in flight")
        end = time.monotonic() + 10
        while server.connections and time.monotonic() < end:
            time.sleep(0.01)
        if server.connections:
            wrong.append(f"wrong: {server.connections} connections are open")
    return Counter(ends), wrong


def _ask(backend: UpstreamBackend, number: int, expected: str) -> str:
    """Return how one request ended."""
    streams = number % 2 == 1
    try:
        generation = backend.submit(
            GenerationRequest(f"r{number}", PROMPT, SamplingParams(50), client=str(number % 7), timeout=30.0)
        )
        generation.wait_for_begin()
        shown = "".join(piece.text for piece in generation.pieces()) if streams else generation.result().text
        whole = generation.result().text
    except ServiceError as error:
        return type(error).__name__
    except Exception as error:
        return f"wrong: {type(error).__name__}"
    return "right" if shown == whole == expected else "wrong: another text"


def at_rest(before: Mapping[str, int]) -> dict[str, int]:
    """Return what this process holds once that is no more than before, or after SETTLED."""
    gc.collect()
    end = time.monotonic() + SETTLED
    while any(count > before[name] for name, count in held().items()) and time.monotonic() < end:
        time.sleep(0.05)
    return held()


def held() -> dict[str, int]:
    """Return what this process holds."""
    own = psutil.Process()
    return {"threads": own.num_threads(), "sockets": len(own.net_connections("all")), "descriptors": own.num_fds()}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=0.05, help="share of answers with a fault")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--results", type=Path, help="folder for upstream_faults.json and upstream_faults.md")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
