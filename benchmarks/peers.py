"""Compare servers of the same model on the same prompts: ours, `generate` under a lock, vLLM, transformers serve and
llama.cpp.

    python -m benchmarks.peers --text FOLDER [--vision FOLDER] [--vllm PROGRAM] [--transformers PROGRAM] ...
    python -m benchmarks.peers --text FOLDER --llama PYTHON --no-lock --c 1,4,16 ...

Each round starts one server after another, alone on its core, applies every load and stops it; the order rotates from
round to round. Ratios are computed within a round and shown with their spread. The servers are pinned to one core and
this client to another (Linux). The results are written after every server. With --llama, llama.cpp serves the weights
as float32, Q8_0 and Q4_0, and ours as bfloat16, int8 and int4 beside float32.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from benchmarks.harness import peer_report, record, servers
from benchmarks.harness.command_line import keep_to_core, whole_numbers
from benchmarks.harness.comparison import Goal, verdicts
from benchmarks.harness.figures import Figures
from benchmarks.harness.http_load import Load, Plan, measure, warm_up
from benchmarks.harness.peer_builds import Build, builds
from benchmarks.harness.peer_report import FIRST_TEXT, FIRST_TEXT_WORST
from benchmarks.harness.record import Facts
from benchmarks.harness.servers import Server
from benchmarks.harness.targets import exit_status
from benchmarks.harness.workload import Workload

OURS, LOCK, VLLM, TRANSFORMERS = "ours", "generate under a lock", "vLLM", "transformers serve"
HALF, INT8, INT4 = "ours, bfloat16", "ours, int8", "ours, int4"
LLAMA = {"llama.cpp, float32": "f32", "llama.cpp, Q8_0": "q8_0", "llama.cpp, Q4_0": "q4_0"}
MIXED, IMAGES = "mixed lengths, c=16", "images, c=16"
MODEL_LENGTH = 1024
WARM_UP_CLIENTS = 16

Measured = dict[str, dict[str, list[Figures]]]


class Bar(Protocol):
    """A progress bar, as tqdm has it."""

    def set_description(self, desc: str) -> object: ...

    def update(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Task:
    """One load with one kind of requests."""

    name: str
    load: Load
    workload: Workload


def tasks(clients: list[int], images: bool) -> list[Task]:
    """Return the loads of a round."""
    text = [Task(f"c={c}", Load(clients=c), Workload()) for c in clients]
    mixed = Task(MIXED, Load(clients=16), Workload(mixed=True))
    return [*text, mixed, *([Task(IMAGES, Load(clients=16), Workload(images=True))] if images else [])]


def goals(clients: list[int]) -> list[Goal]:
    """Return the targets, as ratios of ours to each peer."""
    every = tuple(f"c={c}" for c in clients if c > 1)
    alone = [Goal("tokens/s: at least 1.5 times vLLM's", VLLM, ("c=1",), least=1.5)] if 1 in clients else []
    return [
        *alone,
        Goal("tokens/s: at least 1.3 times vLLM's", VLLM, every, least=1.3),
        Goal("first text p50: at most half of vLLM's", VLLM, ("c=32",), FIRST_TEXT, most=0.5),
        Goal("first text p99: no worse than vLLM's", VLLM, ("c=32",), FIRST_TEXT_WORST, most=1.0),
        Goal("tokens/s: at least 4 times transformers serve", TRANSFORMERS, ("c=32",), least=4.0),
        Goal("tokens/s: at least 6 times generate under a lock", LOCK, ("c=32",), least=6.0),
        *(Goal(f"tokens/s: at least {peer}", peer, (MIXED,), least=1.0) for peer in (VLLM, TRANSFORMERS, LOCK)),
        Goal("tokens/s: at least 6 times generate under a lock", LOCK, (IMAGES,), least=6.0),
    ]


def weight_goals() -> dict[str, list[Goal]]:
    """Return the targets of quantized weights and of bfloat16, by the server that they are of."""
    eight, four = (f"llama.cpp, {kind}" for kind in ("Q8_0", "Q4_0"))
    loads = ("c=1", "c=4", "c=16")
    int8 = [
        Goal(f"tokens/s of int8: at least {least:g} times {peer}", peer, (load,), least=least)
        for peer, wanted in ((eight, (1.5, 2.2, 2.8)), (four, (0.95, 1.4, 1.9)))
        for load, least in zip(loads, wanted, strict=True)
    ]
    int4 = [Goal(f"tokens/s of int4: at least 1.3 times {four}", four, ("c=1",), least=1.3)]
    half = [Goal("tokens/s of bfloat16: at least 1.7 times float32", OURS, ("c=1",), least=1.7)]
    return {HALF: half, INT8: int8, INT4: int4}


def in_turn(compared: list[Server], rounds: int) -> Iterator[tuple[int, Server]]:
    """Yield each server of each round; every round starts with a different one."""
    for number in range(rounds):
        for at in range(len(compared)):
            yield number, compared[(number + at) % len(compared)]


def measure_server(
    server: Server, todo: list[Task], plan: Plan, log: Path, core: int | None, bar: Bar
) -> dict[str, Figures]:
    """Start a server, apply every load and stop it; return its figures by load."""
    figures = {}
    with servers.running(server, log, core) as address:
        for task in todo:
            target = server.target(address, task.workload.images)
            if target is not None:
                bar.set_description(f"{server.name}, {task.name}")
                asyncio.run(warm_up(target, task.workload, min(task.load.clients, WARM_UP_CLIENTS), plan.seed))
                own = replace(plan, workload=task.workload)
                figures[task.name] = asyncio.run(measure(target, task.load, own))
            bar.update()
    return figures


def compare(compared: list[Server], todo: list[Task], options: argparse.Namespace) -> Iterator[Measured]:
    """Measure all rounds; yield the results so far after each server."""
    measured: Measured = {server.name: {} for server in compared}
    with tqdm(total=options.rounds * len(compared) * len(todo), unit="load", disable=None) as bar:
        for number, server in in_turn(compared, options.rounds):
            plan = Plan(each=options.n, seconds=options.seconds, seed=1000 * options.seed + number)
            log = options.logs / f"{server.name.replace(' ', '_')}.log"
            for name, figures in measure_server(server, todo, plan, log, options.server_core, bar).items():
                measured[server.name].setdefault(name, []).append(figures)
            yield measured


def judge(measured: Measured, options: argparse.Namespace) -> list[tuple[str, str, str, str]]:
    """Return the verdict on each target and load."""
    rows = verdicts(measured, OURS, goals(options.c))
    if options.llama:
        rows += [row for own, aims in weight_goals().items() for row in verdicts(measured, own, aims)]
    return rows


def report(
    found: Facts, measured: Measured, todo: list[Task], options: argparse.Namespace, peers: dict[str, Build]
) -> Path:
    """Write the results so far; return the path of the Markdown file."""
    names = [task.name for task in todo]
    tables = [
        "## Tokens a second: median (lowest to highest round)",
        peer_report.table(measured, names, ("tokens_per_second",)),
    ]
    tables += ["## First text, p50, ms", peer_report.table(measured, names, FIRST_TEXT)]
    tables += ["## First text, p99, ms", peer_report.table(measured, names, FIRST_TEXT_WORST)]
    tables += ["## Ours against each, tokens a second", peer_report.ratios(measured, names, OURS)]
    if options.llama:
        tables += [
            f"## {own} against each, tokens a second\n\n{peer_report.ratios(measured, names, own)}"
            for own in weight_goals()
        ]
    tables += ["## Targets", record.table(("target", "load", "ratio", "verdict"), judge(measured, options))]
    tables += [
        peer_report.failed(measured),
        f"Each load: {options.n} requests per client, none after {options.seconds:g} s.",
    ]
    if peers:
        tables += ["## Peers, as they describe themselves", *(f"- {name}: {own}" for name, own in peers.items())]
    content = {"figures": measured, "peers": {name: asdict(own) for name, own in peers.items()}}
    title, panels = f"The same model behind {len(measured)} servers", peer_report.panels(measured, options.c)
    return record.write(options.name, found, content, title, tables, options.results, panels)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="the benchmark's text model (benchmarks.make_model)")
    parser.add_argument("--vision", type=Path, help="its vision model; without it no images are measured")
    parser.add_argument("--vllm", type=Path, help="path of the program `vllm` of a CPU build")
    parser.add_argument("--transformers", type=Path, help="path of the program `transformers` with its serving extra")
    parser.add_argument("--llama", type=Path, help="path of a Python with xllamacpp and gguf")
    parser.add_argument("--no-mixed", action="store_true", help="omit the load of mixed lengths")
    parser.add_argument("--no-lock", action="store_true", help="omit `generate` under a lock")
    parser.add_argument("--own-api", action="store_true", help="send requests to ours under /api/v1 instead of /v1")
    parser.add_argument("--c", type=whole_numbers, default=[1, 4, 16, 32, 64], help="clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=3, help="requests per client (at least 8 in total)")
    parser.add_argument("--seconds", type=float, default=30.0, help="after which no new request is sent")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="do not pin processes to cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="peers", help="name of the results files")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    parser.add_argument("--logs", type=Path, required=True, help="folder for the servers' output")
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> list[Server]:
    """Return the servers to compare, ours first."""
    chat = not options.own_api
    compared = [servers.ours(OURS, options.text, options.vision, MODEL_LENGTH, chat)]
    if not options.no_lock:
        compared.append(servers.under_a_lock(LOCK, options.text, options.vision, MODEL_LENGTH))
    if options.vllm:
        compared.append(servers.vllm(options.vllm, options.text, options.server_core or 0, MODEL_LENGTH))
    if options.transformers:
        compared.append(servers.transformers_serve(options.transformers, options.text))
    if options.llama:
        compared += [
            servers.ours(name, options.text, options.vision, MODEL_LENGTH, chat, name.rpartition(" ")[2])
            for name in (HALF, INT8, INT4)
        ]
        compared += [
            servers.llama_cpp(name, options.llama, options.text, kind, max(options.c), MODEL_LENGTH)
            for name, kind in LLAMA.items()
        ]
    return compared


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the results; return 1 if a server does not start or a target is not met."""
    options = arguments(argv)
    if options.pin:
        keep_to_core(options.client_core)
    else:
        options.server_core = None
    options.logs.mkdir(parents=True, exist_ok=True)
    found = record.facts(["torch", "transformers", "gunicorn", "flask"])
    todo = [
        task for task in tasks(options.c, options.vision is not None) if not (options.no_mixed and task.name == MIXED)
    ]
    peers, path, status = builds(options.vllm, options.transformers, options.llama), None, 0
    try:
        for measured in compare(chosen(options), todo, options):
            path = report(found, measured, todo, options, peers)
            status = exit_status(row[-1] for row in judge(measured, options))
    except RuntimeError as error:
        print(f"{error} Its log is in {options.logs}.", file=sys.stderr)
        status = 1
    if path is not None:
        print(path.read_text(encoding="utf-8"))
    return status


if __name__ == "__main__":
    sys.exit(main())
