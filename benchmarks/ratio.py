"""Is this tree as fast as another one, such as the last release? Both are measured in turn, on the same machine.

    python -m benchmarks.ratio OLD [--old-python OLD/.venv/bin/python] [--rounds 5] [--least 0.9]
                                   [--server-core 0 --client-core 1]

A machine differs more from another one, or from itself an hour later, than a release from the next; so each round
starts one server after the other, the first one by turns, gives both the same prompts, and counts as one ratio. The
status is 1 if a median of these ratios is below --least: tokens per second of this tree over those of the other one, or
the other one's time to the first text over this one's.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.harness import record
from benchmarks.harness.checkpoints import make_text_model
from benchmarks.harness.command_line import keep_to_core
from benchmarks.harness.figures import Figures, Objective
from benchmarks.harness.http_load import Load, Plan
from benchmarks.harness.servers import Server, ours, running
from benchmarks.harness.workload import Workload
from benchmarks.serving import run

Measured = Mapping[str, Figures]
LENGTH = 2048  # of the context
SPEED, FIRST = "tokens/s", "first text"


def server(tree: Path, python: str, model: Path) -> Server:
    """Return the service of a tree, run by its own Python, with the benchmark's model."""
    usual = ours(tree.name, model, None, LENGTH)
    return replace(usual, command=(python, *usual.command[1:]), folder=tree.resolve())


def measure(one: Server, loads: Sequence[Load], plan: Plan, log: Path, core: int | None = None) -> Measured:
    """Start a server, load it, and stop it. core: pins the server."""
    with running(one, log, core) as address:
        target = one.target(address, images=False)
        if target is None:
            raise ValueError(f"{one.name} has no route for texts")
        return asyncio.run(run(target, list(loads), plan))


def ratios(new: Measured, old: Measured) -> dict[str, float]:
    """Return how much better one round of this tree was, by load and figure; 1.1: by a tenth. Raises ValueError."""
    found = {}
    for name, figures in new.items():
        if figures["failures"] or old[name]["failures"]:
            raise ValueError(f"{name}: {figures['errors'] or old[name]['errors']}")
        found[f"{name}, {SPEED}"] = figures["tokens_per_second"] / old[name]["tokens_per_second"]
        ours_first, old_first = figures["first_text_ms"]["p50"], old[name]["first_text_ms"]["p50"]
        if ours_first and old_first:
            found[f"{name}, {FIRST}"] = old_first / ours_first
    return found


def compare(measured: Callable[[bool, int], Measured], rounds: int) -> list[dict[str, float]]:
    """Return the ratios of each round. measured: whether it is this tree, and the round, to its figures."""
    found = []
    for number in range(rounds):
        first = number % 2 == 0
        figures = {which: measured(which, number) for which in (first, not first)}
        found.append(ratios(figures[True], figures[False]))
    return found


def verdict(rounds: Sequence[Mapping[str, float]], least: float) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table, and the names of what has become slower."""
    rows, slower = [], []
    for name in rounds[0]:
        values = sorted(one[name] for one in rounds)
        middle = median(values)
        rows.append([name, f"{middle:.3f}", f"{values[0]:.3f}", f"{values[-1]:.3f}"])
        if middle < least:
            slower.append(name)
    return rows, slower


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="the other tree")
    parser.add_argument("--old-python", default=sys.executable, help="with the packages of that tree")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.9, help="the median ratio that passes")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--n", type=int, default=4, help="requests per client (at least 8 in total)")
    parser.add_argument("--server-core", type=int, help="pin each server to this core (Linux)")
    parser.add_argument("--client-core", type=int, help="pin the clients to this core (Linux)")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both, print and write the ratios; return the exit status, 1 if this tree is slower."""
    options = arguments(argv)
    keep_to_core(options.client_core)
    facts = record.facts(["torch", "gunicorn", "flask"])
    loads = [Load(clients=count) for count in options.clients]
    with tempfile.TemporaryDirectory() as folder:
        model, log = Path(folder) / "model", Path(folder) / "log"
        make_text_model(model)
        servers = {
            True: server(record.ROOT, sys.executable, model),
            False: server(options.old, options.old_python, model),
        }

        def measured(which: bool, number: int) -> Measured:
            plan = Plan(Workload(64, 0.7, False, False), options.n, 600.0, Objective(), number)
            return measure(servers[which], loads, plan, log, options.server_core)

        rounds = compare(measured, options.rounds)
    rows, slower = verdict(rounds, options.least)
    other = record.state_of(options.old)
    table = record.table(("load, figure", "median", "lowest", "highest"), rows)
    said = f"Over 1 is better than {other['commit'][:12]}; the least that passes is {options.least:g}."
    path = record.write(
        "ratio",
        facts,
        {"other": other, "rounds": rounds},
        "This tree and another one",
        [table, said],
        options.results,
        [],
    )
    print(path.read_text(encoding="utf-8"))
    if slower:
        print(f"Slower: {'; '.join(slower)}", file=sys.stderr)
    return int(bool(slower))


if __name__ == "__main__":
    sys.exit(main())
