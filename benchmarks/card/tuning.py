"""Which tiles, stages and warps make paged attention fastest on this card."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from benchmarks.card.kernels import MODELS, TINY, attention_seconds, steps
from benchmarks.card.record import Options, Rows
from engine.model.cuda.attention import META

KEYS, STAGES, WARPS = (32, 64, 128), (2, 3, 4), (2, 4, 8)
DECODE = ("1 row of 300", "64 rows of 50 to 550", "63 rows and one of 16,000")
CHUNKS = ("prompt of 2,048", "64 rows and a chunk of 256 after 2,048")


def tuning(options: Options) -> Rows:
    """Yield the time of attention for each choice, for steps of decode rows and for steps with chunks."""
    spans = steps(options.tiny)
    choices = list(itertools.product(KEYS, STAGES, WARPS))[: options.pick(27, 1)]
    for kind, names in (("DECODE", DECODE), ("TILE", CHUNKS)):
        measured: Sequence[str] = tuple(spans) if options.tiny else names
        for model in TINY[:1] if options.tiny else MODELS:
            for keys, stages, warps in choices:
                meta = {**META, f"{kind}_KEYS": keys, f"{kind}_STAGES": stages, "num_warps": warps}
                try:
                    times = {name: attention_seconds(model, spans[name], options, meta) * 1e6 for name in measured}
                except Exception as error:  # more shared memory than a multiprocessor has
                    yield kind, {"model": model.model, "keys": keys, "stages": stages, "warps": warps,
                                 "refused": str(error)[:80]}  # fmt: skip
                    continue
                yield kind, {"model": model.model, "keys": keys, "stages": stages, "warps": warps, **times}
