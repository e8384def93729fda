"""Simulate fleets of copies of the service: goodput, the cost of a lost copy, the best signal to scale by.

    python -m benchmarks.fleet [--copies 10] [--parts loads,losses,scaling]

No model, no device and no network. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.fleet import questions as ask
from benchmarks.fleet.simulation import OBJECTIVE
from benchmarks.harness import record

HEADERS = {"loads": ask.LOAD_HEADER, "losses": ask.LOSS_HEADER, "scaling": ask.SCALE_HEADER}


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, print and write the results."""
    options = _options(argv)
    facts = record.facts(["simpy", "numpy"])
    copies, seed, effort = options.copies, options.seed, ask.effort_for(options.copies)
    pairs = [(load, rule) for load in effort.loads for rule in effort.rules]
    rows = {
        "loads": lambda: (ask.load_row(copies, load, rule, effort, seed) for load, rule in pairs),
        "losses": lambda: (ask.loss_row(copies, ask.PER_COPY, rule, effort, seed) for rule in effort.loss_rules),
        "scaling": lambda: (ask.scale_row(copies, signal, effort, seed) for signal in effort.signals),
    }
    answers = {part: _shown(rows[part]()) for part in options.parts}
    tables = [_objective(), *(record.table(HEADERS[part], found) for part, found in answers.items() if found)]
    written = {part: [dict(zip(HEADERS[part], row, strict=True)) for row in found] for part, found in answers.items()}
    path = record.write(f"fleet-{copies}", facts, written, f"{copies:,} copies, simulated", tables, options.results)
    print(path.read_text(encoding="utf-8"))
    return 0


def _shown(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    kept = []
    for row in rows:
        print(" | ".join(row), file=sys.stderr, flush=True)
        kept.append(row)
    return kept


def _objective() -> str:
    first, each = 1e3 * OBJECTIVE.first, 1e3 * OBJECTIVE.per_token
    return (
        f"Objective: first token within {first:.0f} ms and {each:.0f} ms per later token on average. Each copy is one "
        "H100 with an 8B model; its times come from questions.py of benchmarks/fleet, the requests from traffic.py. "
        "Lost: the machine is gone at once, and replaced after a start. Scaling: the load of a copy rises from "
        f"{ask.NORMAL:g} to {ask.SURGE:g} requests a second within a minute and falls again; the ideal fleet always "
        f"has {ask.PER_COPY:g} requests a second for each copy, and pays for nothing else."
    )


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=10, help="size of the fleet")
    parser.add_argument(
        "--parts", type=lambda text: text.split(","), default=list(HEADERS), help="some of the questions"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
