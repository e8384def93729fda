"""The text model under load, with random lengths of prompts and answers."""

from __future__ import annotations

import torch

from benchmarks import gpu
from benchmarks.card.aims import aimed_speeds
from benchmarks.card.engines import MEAN_CONTEXT, Started, broken, figures_row, random_lengths, unanswered
from benchmarks.card.record import Options, Rows
from benchmarks.harness.bandwidth import copy_bandwidth, floor_seconds
from benchmarks.harness.gpu_report import TEXT
from benchmarks.harness.shapes import shapes


def load(options: Options) -> Rows:
    """Yield the figures for each number of clients, against what reading weights and caches once a step allows."""
    clients = [1, 2] if options.tiny else [1, 8, 64, 128]
    bandwidth = copy_bandwidth(options.device)
    shape = shapes(options.tiny)[0]
    speeds: dict[int, float] = {}
    with Started(TEXT, shape, random_lengths(shape, options), options, clients[-1]) as model:
        yield "start", model.facts
        for c in clients:
            figures = gpu.steady([model.running], c, model.sizes)[TEXT]
            row_bytes = MEAN_CONTEXT * shape.kv_bytes_per_token
            most = c / floor_seconds(model.running.load.read_bytes, c * row_bytes, bandwidth)
            speeds[c] = figures["tokens_per_second"]
            yield "load", figures_row(f"c={c}", figures, most)
            yield from unanswered(f"c={c}", figures["tokens_per_second"], figures["failures"])
        yield from broken(model)
    if options.device == "cuda" and not options.tiny:
        yield from aimed_speeds(speeds, torch.cuda.get_device_name())
