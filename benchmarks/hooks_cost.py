"""Measure what the service's hooks cost: bare Flask, the liveness probe and a refused request, on one Gunicorn.

    python -m benchmarks.hooks_cost [--rounds N] [--requests N] [--results FOLDER]

One Gunicorn with the service's configuration serves the service with the demo models, rate limits off, and next to it
a bare Flask application with one JSON route. Keep-alive connections request all three in rotation, so that other work
of the machine affects each of them. There are three loads: one connection; 32 connections at a fixed total rate below
the server's capacity; 32 connections without a pause. In the last one every answer waits for 31 others, so the
difference in latency is the cost of 32 requests; the column of requests per second shows the cost of one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flask import Flask, Response, jsonify
from tqdm import tqdm
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from benchmarks.harness import record
from benchmarks.harness.plot import Panel
from benchmarks.harness.servers import demo, running
from benchmarks.harness.targets import Verdict, exit_status, judged

PACED_RATE = 200.0  # requests per second over all connections
TARGET_MS = 1.0
BAD_BODY = b'{"prompt": ""}'
ROUTES = {
    "bare Flask route": (b"GET /bare/alive HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "GET /api/health/live": (b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "refused POST /api/v1/text/generate": (
        b"POST /api/v1/text/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(BAD_BODY), BAD_BODY),
        400,
    ),
}
BARE = "bare Flask route"
# The figures of one load, by route and name.
RouteFigures = dict[str, dict[str, float]]
PACKAGES = ("flask", "werkzeug", "gunicorn", "flask-cors", "limits", "prometheus-client", "pydantic")


@dataclass(frozen=True)
class Load:
    """A load. rate: requests per second over all connections, None for each connection as fast as it is answered."""

    name: str
    connections: int
    rate: float | None = None


LOADS = (
    Load("1 connection", 1),
    Load(f"32 connections, {PACED_RATE:.0f} requests a second", 32, PACED_RATE),
    Load("32 connections, without a pause", 32),
)


@dataclass
class Samples:
    """Latencies of one route under one load, the median of each round, and the duration of all rounds, in seconds."""

    latencies: list[float] = field(default_factory=list)
    round_medians: list[float] = field(default_factory=list)
    busy: float = 0.0

    def add(self, latencies: list[float], seconds: float) -> None:
        """Add one round."""
        self.latencies += latencies
        self.round_medians.append(statistics.median(latencies))
        self.busy += seconds


def build_app() -> Flask:
    """Return the service with the bare application under /bare, for Gunicorn."""
    from app_production import create_app
    from config import settings_or_exit

    bare = Flask("bare")

    @bare.get("/alive")
    def alive() -> Response:
        return jsonify(status="alive")

    app = create_app(settings_or_exit())
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/bare": bare})  # type: ignore[method-assign]
    return app


class KeepAlive(asyncio.Protocol):
    """A keep-alive connection for prepared requests, one at a time; it reads only the status and Content-Length.

    A general HTTP parser would cost more than some of the hooks that are measured.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Resolve the answer once it is complete."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if separator and self._answer and len(body) >= content_length(head):
            self._buffer = b""
            self._answer.set_result(int(head[9:12]))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the answer in progress."""
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("The server closed a kept-alive connection."))

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status once its answer is complete."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


def content_length(head: bytes) -> int:
    """Return the Content-Length of a response head. Raises ValueError if there is none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("An answer without Content-Length cannot be measured here.")


async def ask_many(connection: KeepAlive, route: str, times: int, offset: float, interval: float) -> list[float]:
    """Send a request `times` times, `interval` seconds apart unless that is 0; return the latencies in seconds."""
    request, expected = ROUTES[route]
    latencies, due = [], time.perf_counter() + offset
    for _ in range(times):
        if interval and (pause := due - time.perf_counter()) > 0:
            await asyncio.sleep(pause)
        began = time.perf_counter()
        status = await connection.ask(request)
        latencies.append(time.perf_counter() - began)
        if status != expected:
            raise RuntimeError(f"{route} answered {status}, and {expected} was expected.")
        due += interval
    return latencies


async def one_round(connections: list[KeepAlive], load: Load, route: str, requests: int) -> tuple[list[float], float]:
    """Request one route `requests` times over all connections; return the latencies and the round's duration."""
    interval = load.connections / load.rate if load.rate else 0.0
    began = time.perf_counter()
    batches = await asyncio.gather(
        *(
            ask_many(connection, route, requests // load.connections, interval * at / load.connections, interval)
            for at, connection in enumerate(connections)
        )
    )
    return [latency for batch in batches for latency in batch], time.perf_counter() - began


async def measure(port: int, load: Load, rounds: int, requests: int, tick: Callable[[], object]) -> dict[str, Samples]:
    """Measure all routes, each round in another order; the first round warms up and is not counted."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(KeepAlive, "127.0.0.1", port) for _ in range(load.connections)]
    connections = [protocol for _, protocol in opened]
    names, samples = list(ROUTES), {name: Samples() for name in ROUTES}
    for number in range(rounds + 1):
        for at in range(len(names)):
            name = names[(number + at) % len(names)]
            latencies, seconds = await one_round(connections, load, name, requests)
            if number:
                samples[name].add(latencies, seconds)
        tick()
    for connection in connections:
        connection.close()
    return samples


def summary(samples: dict[str, Samples]) -> RouteFigures:
    """Return each route's figures; added_*: latency above the bare route, with its spread over the rounds."""
    bare = samples[BARE]
    figures = {}
    for name, own in samples.items():
        added = [(a - b) * 1e3 for a, b in zip(own.round_medians, bare.round_medians, strict=True)]
        figures[name] = {
            "requests": len(own.latencies),
            "median_ms": statistics.median(own.latencies) * 1e3,
            "p95_ms": statistics.quantiles(own.latencies, n=20)[-1] * 1e3,
            "added_median_ms": (statistics.median(own.latencies) - statistics.median(bare.latencies)) * 1e3,
            "added_median_lowest_round_ms": min(added),
            "added_median_highest_round_ms": max(added),
            "requests_per_second": len(own.latencies) / own.busy,
        }
    return figures


def as_table(figures: RouteFigures) -> str:
    """Return one load's figures as a Markdown table."""
    header = ("route", "median, ms", "p95, ms", "added at the median, ms (lowest to highest round)", "requests/s")
    rows = []
    for name, own in figures.items():
        spread = f"{own['added_median_lowest_round_ms']:.2f} to {own['added_median_highest_round_ms']:.2f}"
        added = "" if name == BARE else f"{own['added_median_ms']:.2f} ({spread})"
        rate = f"{own['requests_per_second']:.0f}"
        rows.append((name, f"{own['median_ms']:.2f}", f"{own['p95_ms']:.2f}", added, rate))
    return record.table(header, rows)


def verdict(figures: dict[str, RouteFigures]) -> Verdict:
    """Return the verdict on the largest added latency below saturation."""
    held = [figures[load.name] for load in LOADS if load.connections == 1 or load.rate]
    worst = max(own["added_median_ms"] for routes in held for name, own in routes.items() if name != BARE)
    target = f"under {TARGET_MS:g} ms added at the median, with one connection and with 32 at a fixed rate"
    return judged(target, worst < TARGET_MS, f"{worst:.2f} ms at most")


def panels(figures: dict[str, RouteFigures]) -> list[Panel]:
    """Return the plot: the latency added under each load below saturation, with its spread over the rounds."""
    spread = ("added_median_ms", "added_median_lowest_round_ms", "added_median_highest_round_ms")
    held = [figures[load.name] for load in LOADS if load.connections == 1 or load.rate]
    series = {
        name: [[at, *(routes[name][part] for part in spread)] for at, routes in enumerate(held, 1)]
        for name in ROUTES
        if name != BARE
    }
    axis = "1: one connection, 2: 32 at a fixed rate"
    return [{"title": "Added at the median", "x": axis, "y": "ms", "series": series, "target": TARGET_MS}]


def main() -> int:
    """Measure, print and write the results; return the exit status, 1 if the target is missed."""
    parser = argparse.ArgumentParser(description="Measure what the service's hooks cost.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds per route and load (default 10)")
    parser.add_argument("--requests", type=int, default=640, help="requests per round (default 640)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    arguments = parser.parse_args()
    found = record.facts(PACKAGES)
    figures = {}
    with running(demo("hooks", "benchmarks.hooks_cost:build_app()"), Path(os.devnull)) as address:
        port = int(address.rpartition(":")[2])
        for load in LOADS:
            with tqdm(total=arguments.rounds + 1, desc=load.name, unit="round", disable=None) as bar:
                samples = asyncio.run(measure(port, load, arguments.rounds, arguments.requests, bar.update))
            figures[load.name] = summary(samples)
    tables = [part for name, routes in figures.items() for part in (f"## {name}", as_table(routes))]
    written = {"rounds": arguments.rounds, "requests": arguments.requests, "figures": figures}
    tables += [str(verdict(figures)), "Without a pause each answer waits for 31 others, on both sides."]
    title, folder = "What the hooks cost", arguments.results
    path = record.write("hooks_cost", found, written, title, tables, folder, panels(figures))
    print(path.read_text(encoding="utf-8"))
    return exit_status([verdict(figures).word])


if __name__ == "__main__":
    sys.exit(main())
