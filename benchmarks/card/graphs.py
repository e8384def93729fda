"""What launching costs: many tiny kernels one by one and as a CUDA graph."""

from __future__ import annotations

import time
from functools import partial

import torch

from benchmarks.card.record import Options, Row, Rows
from benchmarks.card.timing import Work, captured, per_call, synchronize

KERNELS = (150, 370, 770)
REPLAYS = 50


def graphs(options: Options) -> Rows:
    """Yield times of steps of tiny kernels, without the work that real ones have."""
    for kernels in KERNELS[: options.pick(len(KERNELS), 1)]:
        yield "launching", _launching(kernels, options)


def _launching(kernels: int, options: Options) -> Row:
    x = torch.zeros(4096, device=options.device)
    calls: list[Work] = [partial(x.add_, 1.0)] * kernels
    device = options.device
    eager = _host(lambda: [call() for call in calls], device)
    replay = captured(calls, device)
    host = _host(replay, device)
    return {
        "kernels": kernels,
        "eager, host us": eager[0],
        "eager, us until done": eager[1],
        "graph, host us": host[0],
        "graph, us until done": host[1],
        "graph, device us a kernel": per_call(calls, device) * 1e6,
    }


def _host(run: Work, device: str) -> tuple[float, float]:
    """Return the microseconds of one call from an idle device: until it returns, and until the device is done."""
    run()
    returned, ended = [], []
    for _ in range(REPLAYS):
        synchronize(device)
        began = time.perf_counter()
        run()
        returned.append(time.perf_counter() - began)
        synchronize(device)
        ended.append(time.perf_counter() - began)
    middle = REPLAYS // 2
    return sorted(returned)[middle] * 1e6, sorted(ended)[middle] * 1e6
