"""What one long chat costs the short ones beside it: the gaps between their tokens with it and without."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator

from benchmarks.card.aims import aimed_gaps
from benchmarks.card.engines import (
    Reader,
    Started,
    broken,
    every_token_streamed,
    gaps_row,
    one_request,
    random_lengths,
    unanswered,
)
from benchmarks.card.record import Options, Row, Rows
from benchmarks.harness.gpu_report import TEXT
from benchmarks.harness.in_process import Clients
from benchmarks.harness.shapes import shapes

SHORT, READERS = 63, 4  # rows that are short, and how many of them are read token by token
LONG_PROMPT, LONG_ANSWER = 2100, 1900  # tokens
LONGEST = 20.0  # seconds until a prompt must have been read, and a token have come


def long_row(options: Options) -> Rows:
    """Yield the gaps of short rows alone, beside a long one while it decodes, and alone again."""
    short, watched = options.pick(SHORT, 3), options.pick(READERS, 1)
    shape = shapes(options.tiny)[0]
    prompt, answer = options.pick(LONG_PROMPT, 80), options.pick(LONG_ANSWER, 200)
    started = Started(TEXT, shape, random_lengths(shape, options), options, short + 1)
    with every_token_streamed(), started as model:
        yield "start", model.facts
        others = Clients(model.engine, model.running.requests, short - watched)
        readers = [Reader(model, random_lengths(shape, options, seed)) for seed in range(1, watched + 1)]
        others.start()
        for reader in readers:
            reader.start()
        time.sleep(model.sizes.settle)
        before = yield from _short_rows("alone", readers, model)
        long = Reader(model, (one_request(shape, prompt, answer, number) for number in itertools.count()))
        long.start()
        end = time.monotonic() + LONGEST
        while not long.gaps(0.0) and not long.errors and time.monotonic() < end:  # its prompt is being read
            time.sleep(0.001)
        beside = yield from _short_rows(f"beside one of {prompt} tokens", readers, model)
        row = gaps_row(f"{prompt} tokens", [long], 0.0)
        yield "the long row", row
        yield from unanswered("the long row", float(str(row["gaps"])), row["failed"])
        long.stop()
        after = yield from _short_rows("alone again", readers, model)
        for reader in readers:
            reader.stop()
        others.stop()
        ended = others.take_outcomes()
        failed = sum(outcome.error is not None for outcome in ended)
        yield from unanswered("other short rows", len(ended) - failed, failed)
        yield from broken(model)
    if not options.tiny:
        yield from aimed_gaps([before, after], beside)


def _short_rows(name: str, readers: list[Reader], model: Started) -> Generator[tuple[str, Row], None, Row]:
    """Yield the gaps of a while, and return them."""
    since = time.perf_counter()
    time.sleep(model.sizes.window)
    # On a slow machine no token may have come yet.
    while time.perf_counter() < since + LONGEST and not any(one.gaps(since) or one.errors for one in readers):
        time.sleep(0.01)
    row = gaps_row(name, readers, since)
    yield "short rows", row
    yield from unanswered(f"short rows {name}", float(str(row["gaps"])), row["failed"])
    return row
