"""Measure how compiling schemas affects running streams: the gaps between their events.

    python -m benchmarks.compile_effect [--streams N] [--rate R] [--seconds S] [--results FOLDER]

One Gunicorn serves the demo models with rate limits off. N clients stream answers without a pause. At the same time
requests for one token under a schema arrive at R per second, in phases: `none`; `known`, always the same schema, which
is compiled already; `new`, each time a large schema that was not sent before. The difference between `known` and `new`
is the cost of compiling.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.servers import demo, running

ROUNDS = 3
PROPERTIES = 60
TARGET = 1.10
PACKAGES = ("llguidance", "flask", "gunicorn", "torch")
HELLO = [{"role": "user", "content": "Напиши объявление о продаже велосипеда, подробно."}]


def main() -> int:
    """Measure, write the results and return 1 if compiling slows the streams by more than a tenth."""
    options = _options()
    gaps: dict[str, list[float]] = {"none": [], "known": [], "new": []}
    answers: dict[str, list[float]] = {"known": [], "new": []}
    with running(demo("compile", "app_production:app"), Path(os.devnull)) as address:
        port = int(address.rpartition(":")[2])
        _ask(port, _schema(0))
        for number in range(ROUNDS):
            for kind in gaps:
                found, times = _phase(port, kind, options, number)
                gaps[kind] += found
                answers.get(kind, []).extend(times)
    rows = [
        [kind, str(len(gaps[kind])), *(f"{_at(gaps[kind], share) * 1e3:.1f}" for share in (0.5, 0.9, 0.99))]
        + [f"{statistics.median(answers[kind]) * 1e3:.1f}" if kind in answers else ""]
        for kind in gaps
    ]
    header = ["schemas", "gaps", "p50, ms", "p90, ms", "p99, ms", "schema answers p50, ms"]
    table = record.table(header, rows)
    ratio = _at(gaps["new"], 0.5) / _at(gaps["known"], 0.5)
    verdict = f"Median gap with new schemas over that with known ones: {ratio:.3f} (target: at most {TARGET:.2f})."
    print(table, verdict, sep="\n\n")
    if options.results:
        written = {"options": vars(options) | {"results": None}, "gaps_s": gaps}
        title, tables = "What compiling schemas does to streams", [table, verdict]
        record.write("compile_effect", record.facts(PACKAGES), written, title, tables, options.results)
    return int(ratio > TARGET)


def _phase(port: int, kind: str, options: argparse.Namespace, number: int) -> tuple[list[float], list[float]]:
    """Return the gaps of all streams and the durations of the schema requests, in seconds."""
    gaps: list[float] = []
    times: list[float] = []
    over = time.monotonic() + options.seconds
    streams = [threading.Thread(target=_stream, args=(port, over, gaps)) for _ in range(options.streams)]
    for thread in streams:
        thread.start()
    senders, made = list[threading.Thread](), 0
    while kind != "none" and time.monotonic() < over:
        made += 1
        schema = _schema(0) if kind == "known" else _schema(1 + number * 100_000 + made)
        senders.append(threading.Thread(target=lambda schema=schema: times.append(_timed(lambda: _ask(port, schema)))))
        senders[-1].start()
        time.sleep(1 / options.rate)
    for thread in (*streams, *senders):
        thread.join()
    return gaps, times


def _stream(port: int, over: float, gaps: list[float]) -> None:
    """Read streams until `over`; record the gaps between events with text."""
    while time.monotonic() < over:
        body = {"model": "avibe", "messages": HELLO, "max_tokens": 128, "ignore_eos": True, "stream": True}
        connection, response = _post(port, body)
        last = None
        for line in response:
            if b'"content":' in line:
                now = time.monotonic()
                if last is not None:
                    gaps.append(now - last)
                last = now
        connection.close()


def _schema(number: int) -> dict[str, object]:
    properties: dict[str, dict[str, object]] = {
        f"field_{number}_{index}": {"type": "string", "pattern": "^[a-z]{1,20}(-[a-z]{1,20}){0,3}$"}
        if index % 3 == 0
        else {"type": "array", "items": {"enum": [f"{number}-{index}-{word}" for word in range(8)]}, "maxItems": 5}
        for index in range(PROPERTIES)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _ask(port: int, schema: dict[str, object]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "measured", "schema": schema}}
    connection, response = _post(port, {"model": "avibe", "messages": HELLO, "max_tokens": 1, "response_format": form})
    response.read()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"A schema was answered with {response.status}.")


def _post(port: int, body: dict[str, object]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection, connection.getresponse()


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _at(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--rate", type=float, default=4.0, help="schema requests per second")
    parser.add_argument("--seconds", type=float, default=8.0, help="duration of each phase")
    parser.add_argument("--results", type=Path, help="folder for compile_effect.json and compile_effect.md")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("ENV_FILE", os.devnull)
    sys.exit(main())
