"""Ask a server that fails in every way, through the service's client of it: each answer is right, or one typed error.

    python -m benchmarks.upstream_faults [--requests N] [--rate SHARE] [--at-once N]

A scripted server breaks a share of its answers: resets, silence in the middle, 500, 429, nonsense, half a stream. Every
other request streams. At the end, each answer was whole or a typed error within its time, and no thread, no socket and
no descriptor is left. Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil

from config import Upstream
from engine.errors import ServiceError
from engine.types import ChatPrompt, GenerationRequest, SamplingParams
from tests.fake_upstream import Script, fake_upstream
from upstream.backend import UpstreamBackend
from upstream.loop import UpstreamLoop

PROMPT = ChatPrompt(({"role": "user", "content": "Hello"},))
IDLE = 0.5  # seconds after which silence is a failure


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, print what came of it and return 1 if anything was wrong."""
    options = _options(argv)
    before, began = _held(), time.monotonic()
    outcomes, wrong = run(options.requests, options.rate, options.at_once)
    print(f"{options.requests} requests in {time.monotonic() - began:.1f} s:", dict(outcomes.most_common()))
    gc.collect()
    after = _held()
    print(f"threads, descriptors: {before} before, {after} after")
    for one in wrong[:10]:
        print("wrong:", one)
    return int(bool(wrong) or after > before)


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


def _held() -> tuple[int, int]:
    """Return the threads and descriptors of this process."""
    return threading.active_count(), psutil.Process(os.getpid()).num_fds()


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=0.05, help="share of answers with a fault")
    parser.add_argument("--at-once", type=int, default=32)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
