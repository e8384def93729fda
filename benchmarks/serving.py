"""Measure a running server over HTTP, in closed loops (clients wait for answers) and open loops (arrivals do not).

    python -m benchmarks.serving URL --model NAME [--c 1,4,16,32,64] [--rate 2,4,8] ...

URL is any OpenAI-style streaming route (http://127.0.0.1:8085/v1/chat/completions) or one of our own JSON routes
(.../api/v1/text/generate, .../api/v1/image/analyze). With --whole the latter answer in one piece, without times of
the first text and of gaps. The service's rate limits must be off (RATE_LIMIT_PER_MINUTE=0, RATE_LIMIT_PER_HOUR=0).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.harness import record
from benchmarks.harness.command_line import keep_to_core, numbers, whole_numbers
from benchmarks.harness.figures import HEADER, Figures, Objective, row
from benchmarks.harness.http_client import Target
from benchmarks.harness.http_load import Load, Plan, measure, warm_up
from benchmarks.harness.plot import Panel
from benchmarks.harness.workload import Workload


def panels(results: dict[str, Figures], loads: list[Load]) -> list[Panel]:
    """Return the plot: throughput and time to first text, for each kind of loop that was run."""
    drawn: list[Panel] = []
    for closed, axis in ((True, "clients"), (False, "requests a second")):
        ours = [(load.clients or load.rate, results[load.name]) for load in loads if bool(load.clients) is closed]
        if ours:
            speed = {"tokens/s": [[x, figures["tokens_per_second"]] for x, figures in ours]}
            wait = {p: [[x, figures["first_text_ms"][p]] for x, figures in ours] for p in ("p50", "p95", "p99")}
            drawn.append({"title": "Throughput", "x": axis, "y": "tokens/s", "series": speed})
            drawn.append({"title": "Time to first text", "x": axis, "y": "ms", "series": wait})
    return drawn


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", default="", help="the model's name in chat requests")
    parser.add_argument("--key-file", type=Path, help="file with the API key for the Authorization header")
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16, 32, 64], help="clients of the closed loops")
    parser.add_argument("--rate", type=numbers, default=[], help="requests per second of the open loops")
    parser.add_argument("--n", type=int, default=3, help="requests per client (at least 8 in total)")
    parser.add_argument("--seconds", type=float, default=30.0, help="after which no new request is sent")
    parser.add_argument("--tokens", type=int, default=64, help="tokens per answer")
    parser.add_argument("--mixed", action="store_true", help="answers of 8 to 256 tokens instead")
    parser.add_argument("--images", "--pictures", action="store_true", help="send an image with each request")
    parser.add_argument("--whole", action="store_true", help="request answers in one piece from our own routes")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--objective", type=numbers, default=[1000.0, 100.0], help="ms to the first text, ms per token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--core", type=int, help="pin this client to a core (Linux)")
    parser.add_argument("--name", default="serving", help="name of the results files")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser.parse_args(argv)


async def run(target: Target, loads: list[Load], plan: Plan) -> dict[str, Figures]:
    """Measure each load in turn, with a progress bar on a terminal."""
    await warm_up(target, plan.workload, max((load.clients for load in loads), default=1) or 1, plan.seed)
    results = {}
    for load in loads:
        expected = len(plan.jobs(load)) if load.clients else round(load.rate * plan.seconds)
        with tqdm(total=expected, desc=load.name, unit="request", disable=None) as bar:
            results[load.name] = await measure(target, load, plan, bar.update)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the results; return the exit status, 1 if every request of a load failed."""
    options = arguments(argv)
    keep_to_core(options.core)
    first, per_token = (milliseconds / 1e3 for milliseconds in options.objective)
    workload = Workload(options.tokens, options.temperature, options.mixed, options.images)
    plan = Plan(workload, options.n, options.seconds, Objective(first, per_token), options.seed)
    key = options.key_file.read_text(encoding="utf-8").strip() if options.key_file else None
    target = Target(options.url, options.model, key, whole=options.whole)
    loads = [*(Load(clients=c) for c in options.c), *(Load(rate=rate) for rate in options.rate)]
    found = record.facts(["tqdm", "numpy"])
    results = asyncio.run(run(target, loads, plan))
    objective = (
        f"Goodput: first text within {first:g} s and at most {per_token:g} s for each token after it, on average."
    )
    tables = [record.table(HEADER, [row(name, figures) for name, figures in results.items()]), objective]
    written = {"url": options.url, "figures": results}
    title = f"Serving, measured at {target.path}"
    path = record.write(options.name, found, written, title, tables, options.results, panels(results, loads))
    print(path.read_text(encoding="utf-8"))
    return int(any(figures["failures"] == figures["requests"] for figures in results.values()))


if __name__ == "__main__":
    sys.exit(main())
