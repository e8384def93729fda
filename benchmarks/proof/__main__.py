"""Prove the service's promises against a real Gunicorn, and write down what was tried and what was lost.

    python -m benchmarks.proof [PROGRAM ...] [--short] [--model FOLDER] [--name NAME]

Each program starts a service of its own with the demo models, or with a checkpoint of Avibe. Only with every program
in its long form are the results those of the proof, benchmarks/results/proof.md, and is tests/RELIABILITY.md written;
a trial is kept under a name of its own.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.harness import record
from benchmarks.proof import (
    addresses,
    crowds,
    fairness,
    faults,
    handover,
    hostile,
    leavers,
    overload,
    refusal_cost,
    slow,
    soak,
)
from benchmarks.proof.report import FINDINGS, TRIED, Report, rows, summary
from benchmarks.proof.size import LONG, SHORT, Size

PROGRAMS: dict[str, Callable[[Size], Report]] = {
    "hostile": hostile.run,
    "slow": slow.run,
    "leavers": leavers.run,
    "overload": overload.run,
    "refusal_cost": refusal_cost.run,
    "fairness": fairness.run,
    "crowds": crowds.run,
    "addresses": addresses.run,
    "handover": handover.run,
    "faults": faults.run,
    "soak": soak.run,
}
RELIABILITY = record.ROOT / "tests" / "RELIABILITY.md"
BEGIN, END = "<!-- begin: written by benchmarks.proof -->", "<!-- end -->"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", choices=[[], *PROGRAMS], metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--short", action="store_true", help="a trial of each program, without tests/RELIABILITY.md")
    parser.add_argument("--seconds", type=float, help="of one load")
    parser.add_argument("--requests", type=int, help="mixed requests of the soak")
    parser.add_argument("--leavers", type=int, help="clients that leave")
    parser.add_argument("--rounds", type=int, help="how often what happens once is repeated")
    parser.add_argument("--model", type=Path, help="Avibe's checkpoint instead of the demo's")
    parser.add_argument("--name", help="name of the results files; proof, or proof-trial")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser.parse_args(argv)


def size_of(asked: argparse.Namespace) -> Size:
    """Return how long the promises are to be tried."""
    given = {name: getattr(asked, name) for name in ("seconds", "requests", "leavers", "rounds", "model")}
    return replace(
        SHORT if asked.short else LONG, **{name: value for name, value in given.items() if value is not None}
    )


def run(name: str, size: Size) -> Report:
    """Run one program; one that breaks has broken its promise."""
    try:
        return PROGRAMS[name](size)
    except Exception as error:
        traceback.print_exc()
        report = Report(name, "the program runs to its end")
        report.count(f"{type(error).__name__}: {error}"[:200])
        return report


def written(template: str, found: record.Facts, reports: Sequence[Report]) -> str:
    """Return tests/RELIABILITY.md with what stands between its markers replaced."""
    machine = f"{found['cores']} x {found['cpu']} (load average before: {found['load_average_1min']:g})"
    changed = " with uncommitted changes" if found["uncommitted_changes"] else ""
    facts = f"Tried {found['date']} at commit {found['commit'][:12]}{changed}, on {machine}:"
    tables = (record.table(TRIED, summary(reports)), record.table(FINDINGS, rows(reports)))
    before, _, rest = template.partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n\n".join([before + BEGIN, facts, f"    {found['command']}", *tables, END + after])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the programs, print and write the results; return the exit status, 1 if a promise was broken."""
    asked = arguments(argv)
    size = size_of(asked)
    found = record.facts(["gunicorn", "torch"])
    reports = []
    for name in asked.programs or PROGRAMS:
        reports.append(run(name, size))
        print(record.table(FINDINGS, rows(reports[-1:])), flush=True)
    tables = [record.table(TRIED, summary(reports)), record.table(FINDINGS, rows(reports))]
    content = {"size": {**asdict(size), "model": str(size.model or "demo")}, "programs": [asdict(r) for r in reports]}
    whole = not (asked.short or asked.programs)
    path = record.write(
        asked.name or ("proof" if whole else "proof-trial"),
        found,
        content,
        "The promises, tried",
        tables,
        asked.results,
    )
    print(path.read_text(encoding="utf-8"))
    if whole:
        RELIABILITY.write_text(written(RELIABILITY.read_text(encoding="utf-8"), found, reports), encoding="utf-8")
    return int(not all(report.holds for report in reports))


if __name__ == "__main__":
    sys.exit(main())
