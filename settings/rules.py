"""The rules between settings: what no single value shows, each broken one a sentence for the operator.

The settings are taken as a plain mapping of names to values, so that one reader finds every rule here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DEMO = Path("demo")
MODELS = 2
SPARE_THREADS = 32

Values = Mapping[str, Any]


def threads_needed(values: Values) -> int:
    """Return one thread for each request both models can hold, and some for probes, refusals and pages."""
    return MODELS * (int(values["MAX_NUM_SEQS"]) + int(values["MAX_WAITING"])) + SPARE_THREADS


def broken_rules(values: Values) -> Iterator[str]:
    """Yield a sentence for each rule that the values break."""
    yield from _process(values)
    yield from _lengths(values)
    yield from _models(values)
    yield from _log_file(values["LOG_FILE"])


def _process(values: Values) -> Iterator[str]:
    if values["WORKERS"] > 1:
        yield (
            f"WORKERS={values['WORKERS']}: expected 1, because each worker would load the weights again; "
            "to serve more, raise MAX_NUM_SEQS or run more copies of the service"
        )
    needed = threads_needed(values)
    if values["THREADS"] is not None and values["THREADS"] < needed:
        yield (
            f"THREADS={values['THREADS']}: expected at least {needed} = {MODELS} models x (MAX_NUM_SEQS "
            f"{values['MAX_NUM_SEQS']} + MAX_WAITING {values['MAX_WAITING']}) + {SPARE_THREADS} for probes, "
            "refusals and pages; leave it out to have it computed"
        )


def _lengths(values: Values) -> Iterator[str]:
    for name in ("MAX_TOKENS_AVIBE", "MAX_TOKENS_AVISION"):
        if values[name] > values["MAX_TOKENS_LIMIT"]:
            yield f"{name}={values[name]}: expected at most MAX_TOKENS_LIMIT, which is {values['MAX_TOKENS_LIMIT']}"
    if values["MAX_TOKENS_LIMIT"] >= values["MAX_MODEL_LEN"]:
        yield (
            f"MAX_TOKENS_LIMIT={values['MAX_TOKENS_LIMIT']}: expected less than MAX_MODEL_LEN, which is "
            f"{values['MAX_MODEL_LEN']} and holds the prompt as well"
        )
    if 0 < values["MAX_NUM_BATCHED_TOKENS"] < values["MAX_NUM_SEQS"]:
        yield (
            f"MAX_NUM_BATCHED_TOKENS={values['MAX_NUM_BATCHED_TOKENS']}: expected 0 (automatic) or at least "
            f"MAX_NUM_SEQS, which is {values['MAX_NUM_SEQS']}, because each running request makes a token a step"
        )


def _models(values: Values) -> Iterator[str]:
    if values["VIBE_TOKENIZER_DIR"] == DEMO != values["VIBE_MODEL_DIR"]:
        yield "VIBE_TOKENIZER_DIR='demo': expected VIBE_MODEL_DIR=demo beside it, because it fits that model alone"


def _log_file(path: Path | None) -> Iterator[str]:
    """Check without creating the file: it may be checked as root and written as somebody else."""
    if path is None:
        return
    try:
        writable = os.access(path, os.W_OK) if path.exists() else os.access(path.parent, os.W_OK | os.X_OK)
        usable = writable and not path.is_dir()
    except OSError:
        usable = False
    if not usable:
        yield f"LOG_FILE={str(path)!r}: expected a file that can be written, in a folder that exists"
