"""Options that the programs share: comma-separated numbers, pinning to a core, and where results go."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from benchmarks.harness import record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "chromium")


def numbers(text: str) -> list[float]:
    """Parse comma-separated numbers."""
    return [float(part) for part in text.split(",") if part]


def whole_numbers(text: str) -> list[int]:
    """Parse comma-separated whole numbers."""
    return [int(part) for part in text.split(",") if part]


def keep_to_core(core: int | None) -> None:
    """Pin this process to one core."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def add_run_options(parser: argparse.ArgumentParser, name: str | None, rounds: int) -> None:
    """Add the options of a program that measures in this process, with these defaults."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--core", type=int, help="pin this process to a core (Linux)")
    parser.add_argument(
        "--name", default=name, help="name of the results files" + ("" if name else " (by default by what is measured)")
    )
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")


def browser_options(doc: str | None) -> argparse.ArgumentParser:
    """Return the parser of a program that measures the page. doc: its docstring."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0] if doc else None)
    parser.add_argument("--chromium", default=CHROMIUM, help="path of the browser")
    parser.add_argument("--results", type=Path, default=record.RESULTS, help="folder for the results")
    return parser
