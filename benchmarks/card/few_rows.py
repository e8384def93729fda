"""Attention of few decode rows by its settings, for one device call: the last rows of the output are the comparison.

Each variant is measured for every case; "best" is the fastest of each whose result is right, and how much it gains over
the defaults. "error" is the greatest of a variant.
"""

from __future__ import annotations

import random
from itertools import product
from typing import Any

from benchmarks.card.paged_attention import HEADS, WRONG, Sequences, measured
from benchmarks.card.record import Cell, Options, Row, Rows, is_right, problem
from benchmarks.harness.bandwidth import copy_bandwidth
from engine.model.cuda.attention_plan import PART_KEYS

DEFAULTS = {"part_keys": PART_KEYS, "DECODE_KEYS": 64, "LAST_MERGES": True, "dependent": True}
VALUES: dict[str, tuple[Any, ...]] = {
    "part_keys": (64, 128, 256),
    "DECODE_KEYS": (32, 64),
    "LAST_MERGES": (False, True),
    "dependent": (False, True),
}
SECONDS = 0.004  # of one measurement


def cases(options: Options) -> dict[str, Sequences]:
    """Return the steps that are measured."""
    rng, scale = random.Random(0), options.pick(1, 32)
    rows = {count: [(1, rng.randint(100, 600) // scale) for _ in range(count)] for count in (8, 16, 64)}
    found: dict[str, Sequences] = {"1 of 300": [(1, 300 // scale)], "1 of 2k": [(1, 2000 // scale)]}
    found |= {f"{count} of 100-600": sequences for count, sequences in rows.items()}
    return dict(list(found.items())[: options.pick(5, 2)])


def variants(options: Options) -> list[dict[str, Any]]:
    """Return the settings, the defaults first."""
    found = [dict(zip(VALUES, values, strict=True)) for values in product(*VALUES.values())]
    # Narrow steps can only pay where a part is short.
    found = [variant for variant in found if variant["DECODE_KEYS"] == 64 or variant["part_keys"] == 64]
    found = [DEFAULTS, *(variant for variant in found if variant != DEFAULTS)]
    return found[: options.pick(len(found), 2)]


def few_rows(options: Options) -> Rows:
    """Yield the microseconds of every variant, then the best of each model and case."""
    bandwidth = copy_bandwidth(options.device)
    rows: list[Row] = []
    for variant in variants(options):
        for model in HEADS:
            row: Row = {"model": model, **{name: str(value) for name, value in variant.items()}}
            errors: list[float] = []
            for case, sequences in cases(options).items():
                found = _measured(model, sequences, options, bandwidth, variant)
                row[case] = _shown(found)
                errors += [float(str(found["error"]))] if "us" in found else []
            rows.append({**row, "error": max(errors, default=None)})
            yield "microseconds", rows[-1]
            if wrong := [case for case in cases(options) if str(row[case]).startswith("wrong")]:
                yield problem(f"{row}: {', '.join(wrong)}")
    for model, case in product(HEADS, cases(options)):
        timed = [row for row in rows if row["model"] == model and isinstance(row[case], float)]
        if not timed:
            first = next(row for row in rows if row["model"] == model)
            yield problem(f"{model}, {case}: no variant gave a right result, the first: {first[case]}")
            continue
        best = min(timed, key=lambda row, case=case: float(str(row[case])))  # type: ignore[misc]
        default = next(row for row in rows if row["model"] == model)[case]
        settings = {name: best[name] for name in VALUES}
        yield "best", {"model": model, "case": case, "us": best[case], "default us": default, **settings}


def _measured(model: str, sequences: Sequences, options: Options, bandwidth: float, variant: dict[str, Any]) -> Row:
    meta = {name: value for name, value in variant.items() if name.isupper()}
    plan = {"part_keys": variant["part_keys"]}
    return measured(model, sequences, options, bandwidth, plan, meta, variant["dependent"], SECONDS)


def _shown(row: Row) -> Cell:
    """Return the microseconds of a right result, else what is in the way of it."""
    if "us" not in row:
        return row["refused"]
    return row["us"] if is_right(row, WRONG) else f"wrong: {row['error']}"
