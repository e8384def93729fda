"""Compare the simulation with three real copies of the service, on this machine's processor.

    python -m benchmarks.fleet.calibrate [--rates 9,18,27] [--seconds 30]

The copies run the demo models, with steps that take as long as STEP, ROW and TOKEN say (paced_app.py), since three that
compute would share this machine's cores, which is not what is simulated. One copy tells what HTTP adds. Then all get
requests with the lengths of the trace, scaled down, in an open loop; each goes to the copy with the fewest requests.
The simulation gets the same rates, lengths and costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.fleet.balancer import Balancer
from benchmarks.fleet.replica import Machine, Replica
from benchmarks.fleet.simulation import Fleet, Scenario, first_token
from benchmarks.fleet.traffic import Lengths
from benchmarks.harness import record
from benchmarks.harness.command_line import numbers
from benchmarks.harness.figures import Outcome
from benchmarks.harness.http_client import Target, ask
from benchmarks.harness.load import closed_loop, open_loop
from benchmarks.harness.servers import OPENAI_PATH, Server, demo, running
from benchmarks.harness.workload import Job, arrivals

COPIES = 3
WORD = "город "
SCALE = 0.1  # of the trace's lengths
SHORT, LONG = 8, 160  # words
ANSWER, PROBES = 16, 24
STEP, ROW, TOKEN = 30e-3, 0.5e-3, 0.4e-3  # seconds
SLOTS, CACHE, BUDGET = 64, 100_000, 320  # of EngineConfig; the cache is never full
ROW_HEADER = (
    "requests/s", "", "first token p50, ms", "p95, ms", "p99, ms", "per token p50, ms", "per token p95, ms",
    "answered/s", "failed",
)  # fmt: skip


@dataclass(slots=True)
class Costs:
    """What one copy told: seconds of HTTP; tokens of a prompt."""

    hop: float
    fixed_tokens: float
    tokens_per_word: float

    def words(self, tokens: int) -> int:
        """Return the words of a prompt of about so many tokens."""
        return max(1, round((tokens - self.fixed_tokens) / self.tokens_per_word))


@dataclass(slots=True)
class Sent:
    """What was sent and answered at one rate."""

    outcomes: list[Outcome] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)


def job(words: int, answer: int) -> Job:
    """Return a request; the prompt begins with a random word, so that no prefix is found."""
    return Job(f"{random.randrange(10**9)} {WORD * words}", answer, 0.7)


def prompt_tokens(address: str, words: int) -> int:
    """Ask a copy how many tokens a prompt has."""
    chat = {"model": "avibe", "max_tokens": 1, "messages": [{"role": "user", "content": job(words, 1).prompt}]}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address + OPENAI_PATH, json.dumps(chat).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        tokens: int = json.load(answer)["usage"]["prompt_tokens"]
    return tokens


async def costs_of(address: str) -> Costs:
    """Measure one copy alone."""
    target = Target(address + OPENAI_PATH, "avibe")
    few, many = prompt_tokens(address, SHORT), prompt_tokens(address, LONG)
    jobs = [job(SHORT, ANSWER) for _ in range(PROBES)]
    done, _ = await closed_loop(lambda one, due: ask(target, one, due), jobs, 1, 60, lambda: None)
    first = median(outcome.first for outcome in done[PROBES // 4 :] if outcome.first is not None)
    per_word = (many - few) / (LONG - SHORT)
    return Costs(max(0.0, first - STEP - TOKEN * few), few - per_word * SHORT, per_word)


async def load(addresses: Sequence[str], rate: float, seconds: float, costs: Costs) -> Sent:
    """Send requests to the copies in an open loop, each to the one with the fewest."""
    rng, lengths, sent = random.Random(f"{rate}"), Lengths(scale=SCALE), Sent()
    balancer = Balancer("leastconn")
    targets = dict[int, Target]()
    for number, address in enumerate(addresses):
        targets[number] = Target(address + OPENAI_PATH, "avibe")
        balancer.add(Replica(None, Machine(0, 0, 0, 1, 1), number))
    due = list(arrivals(rate, seconds, "calibrate"))
    drawn = [lengths.draw(rng) for _ in due]
    sent.prompts = [prompt for prompt, _ in drawn]

    async def send(one: Job, at: float) -> Outcome:
        replica = balancer.choose(0)
        try:
            return await ask(targets[replica.number], one, at)
        finally:
            replica.outstanding -= 1
            balancer.ended(replica)

    jobs = [job(costs.words(prompt), answer) for prompt, answer in drawn]
    sent.outcomes, _ = await open_loop(send, jobs, due, lambda: None)
    return sent


def simulated(rate: float, seconds: float, costs: Costs, sent: Sent) -> list[Outcome]:
    """Return the outcomes of the same load, simulated."""
    answers = sorted(outcome.tokens for outcome in sent.outcomes if outcome.error is None)
    lengths = Lengths(tuple(sorted(sent.prompts)), tuple(answers))
    machine = Machine(STEP, ROW, TOKEN, SLOTS, CACHE, BUDGET, hop=costs.hop)
    window = (10.0, 10.0 + 10 * seconds)
    scenario = Scenario(machine, COPIES, lambda _: rate, rate, window, lengths=lengths, turns=1.0)
    return Fleet(scenario).run().between(*window)


def row(rate: float, name: str, outcomes: list[Outcome], seconds: float) -> tuple[str, ...]:
    """Return the figures of one load as a table's row."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    each = sorted(1e3 * o.per_token for o in good if o.per_token is not None)
    firsts = (f"{1e3 * first_token(good, share):.1f}" for share in (50, 95, 99))
    per_token = (f"{each[int(share * (len(each) - 1))]:.2f}" for share in (0.5, 0.95))
    failed = f"{len(outcomes) - len(good)} of {len(outcomes)}"
    return f"{rate:g}", name, *firsts, *per_token, f"{len(good) / seconds:.1f}", failed


def copy_server(number: int) -> Server:
    """Return a copy of the service with the demo models and paced steps."""
    server = demo(f"copy {number}", "benchmarks.fleet.paced_app:app")
    pace = {"STEP_MS": f"{1e3 * STEP}", "ROW_MS": f"{1e3 * ROW}", "TOKEN_MS": f"{1e3 * TOKEN}"}
    return Server(server.name, server.command, server.ready, env={**server.env, **pace})


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, simulate, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=numbers, default=[9.0, 18.0, 27.0], help="requests a second, comma-separated")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each rate")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    options = parser.parse_args(argv)
    found = record.facts(["simpy", "numpy"])
    rows, seconds = list[tuple[str, ...]](), options.seconds
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        addresses = [stack.enter_context(running(copy_server(n), Path(logs) / f"{n}")) for n in range(COPIES)]
        costs = asyncio.run(costs_of(addresses[0]))
        for rate in options.rates:
            sent = asyncio.run(load(addresses, rate, seconds, costs))
            rows.append(row(rate, "measured", sent.outcomes, seconds))
            rows.append(row(rate, "simulated", simulated(rate, seconds, costs, sent), 10 * seconds))
    told = (
        f"Each copy takes {1e3 * STEP:g} ms for a step, {1e3 * ROW:g} ms for each row and {1e3 * TOKEN:g} ms for each "
        f"token of a prompt; HTTP adds {1e3 * costs.hop:.1f} ms. Lengths are {SCALE:g} of the trace's."
    )
    written = {"costs": told, "loads": [dict(zip(ROW_HEADER, cells, strict=True)) for cells in rows]}
    tables = [told, record.table(ROW_HEADER, rows)]
    title = "Three copies, measured and simulated"
    path = record.write("fleet_calibration", found, written, title, tables, options.results)
    print(path.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
