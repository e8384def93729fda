"""Measure how compiling schemas affects running streams: the gaps between their events.

    python -m benchmarks.compile_effect [--streams N] [--rate R] [--seconds S] [--results FOLDER]

One Gunicorn serves the demo models with rate limits off. N clients stream answers without a pause. At the same time
requests for one token under a schema arrive at R per second, in phases: `none`; `known`, always the same schema, which
is compiled already; `new`, each time a large schema that was not sent before. The difference between `known` and `new`
is the cost of compiling: it is judged by the mean, which every stall moves, and by the longest gap. On a busy machine
the longest gap is one of waiting for a core, in `none` as well. A request that is refused or broken off ends the
program.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import statistics
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.servers import demo, running
from benchmarks.harness.targets import Verdict, exit_status, judged

ROUNDS = 3
PROPERTIES = 60
MOST_MEAN = 1.10
MOST_GAP_MS = 100.0  # of a stream of another client
PACKAGES = ("llguidance", "flask", "gunicorn", "torch")
HELLO = [{"role": "user", "content": "Напиши объявление о продаже велосипеда, подробно."}]


def main() -> int:
    """Measure, write the results and return 1 if compiling slows the streams by more than a tenth, or stops one."""
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
        [kind, str(len(gaps[kind])), f"{statistics.fmean(gaps[kind]) * 1e3:.1f}"]
        + [f"{_at(gaps[kind], share) * 1e3:.1f}" for share in (0.5, 0.9, 0.99, 1)]
        + [f"{statistics.median(answers[kind]) * 1e3:.1f}" if kind in answers else ""]
        for kind in gaps
    ]
    header = ["schemas", "gaps", "mean, ms", "p50, ms", "p90, ms", "p99, ms", "longest, ms", "schema answers p50, ms"]
    verdicts = judge(gaps)
    tables = [record.table(header, rows), *map(str, verdicts)]
    print("\n\n".join(tables))
    if options.results:
        written = {"options": vars(options) | {"results": None}, "gaps_s": gaps}
        title = "What compiling schemas does to streams"
        record.write("compile_effect", record.facts(PACKAGES), written, title, tables, options.results)
    return exit_status(verdict.word for verdict in verdicts)


def judge(gaps: dict[str, list[float]]) -> list[Verdict]:
    """Return the verdicts on the gaps, in seconds by kind of schemas."""
    ratio, longest = statistics.fmean(gaps["new"]) / statistics.fmean(gaps["known"]), max(gaps["new"]) * 1e3
    mean = f"a mean gap with new schemas of at most {MOST_MEAN:.2f} times that with known ones"
    return [
        judged(mean, ratio <= MOST_MEAN, f"{ratio:.3f}"),
        judged(f"no gap over {MOST_GAP_MS:g} ms with new schemas", longest <= MOST_GAP_MS, f"{longest:.1f} ms at most"),
    ]


def _phase(port: int, kind: str, options: argparse.Namespace, number: int) -> tuple[list[float], list[float]]:
    """Return the gaps of all streams and the durations of the schema requests, in seconds."""
    over = time.monotonic() + options.seconds
    most = options.streams + math.ceil(options.rate * options.seconds) + 1
    asked: list[Future[float]] = []
    with ThreadPoolExecutor(most) as pool:
        streams = [pool.submit(stream, port, over) for _ in range(options.streams)]
        while kind != "none" and time.monotonic() < over:
            schema = _schema(0) if kind == "known" else _schema(1 + number * 100_000 + len(asked))
            asked.append(pool.submit(_ask, port, schema))
            time.sleep(1 / options.rate)
    return [gap for future in streams for gap in future.result()], [future.result() for future in asked]


def stream(port: int, over: float) -> list[float]:
    """Read streams until `over`; return the gaps between events with text. Raises SystemExit if one is not whole."""
    gaps: list[float] = []
    while time.monotonic() < over:
        body = {"model": "avibe", "messages": HELLO, "max_tokens": 128, "ignore_eos": True, "stream": True}
        connection, response = _post(port, body)
        last, line, wrong = None, b"", response.status != 200
        for line in filter(bytes.strip, response):
            wrong |= b'"error":' in line
            if b'"content":' in line:
                now = time.monotonic()
                gaps += [] if last is None else [now - last]
                last = now
        connection.close()
        if wrong or line.strip() != b"data: [DONE]":
            raise SystemExit(f"A stream was answered with {response.status} and ended with {line[:200]!r}.")
    return gaps


def _schema(number: int) -> dict[str, object]:
    properties: dict[str, dict[str, object]] = {
        f"field_{number}_{index}": {"type": "string", "pattern": "^[a-z]{1,20}(-[a-z]{1,20}){0,3}$"}
        if index % 3 == 0
        else {"type": "array", "items": {"enum": [f"{number}-{index}-{word}" for word in range(8)]}, "maxItems": 5}
        for index in range(PROPERTIES)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _ask(port: int, schema: dict[str, object]) -> float:
    """Return how many seconds the answer to a schema took. Raises SystemExit if there was none."""
    form = {"type": "json_schema", "json_schema": {"name": "measured", "schema": schema}}
    began = time.monotonic()
    connection, response = _post(port, {"model": "avibe", "messages": HELLO, "max_tokens": 1, "response_format": form})
    response.read()
    connection.close()
    if response.status != 200:
        raise SystemExit(f"A schema was answered with {response.status}.")
    return time.monotonic() - began


def _post(port: int, body: dict[str, object]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection, connection.getresponse()


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
