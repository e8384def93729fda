"""Time of work on a device, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

Work = Callable[[], object]


def synchronize(device: str) -> None:
    """Wait for a device."""
    if device == "cuda":
        torch.cuda.synchronize()


def once(work: Work, device: str) -> float:
    """Return the wall time of one call from an idle device until the device is done."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def captured(calls: Sequence[Work], device: str) -> Work:
    """Return these calls as one CUDA graph; on the CPU, one after another."""
    if device != "cuda":
        return lambda: [call() for call in calls]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def per_call(calls: Sequence[Work], device: str, seconds: float = 0.01) -> float:
    """Return the device's time of one of these calls, without the time of launching: they run as one CUDA graph.

    seconds: how long to measure. The calls should use different memory, so that no cache holds what a step reads anew.
    """
    run = captured(calls, device)
    run()
    repeats = max(2, min(1000, round(seconds / max(once(run, device), 1e-6))))
    shortest = min(_batch(run, repeats, device) for _ in range(3))
    return shortest / repeats / len(calls)


def _batch(run: Work, repeats: int, device: str) -> float:
    if device != "cuda":
        return once(lambda: [run() for _ in range(repeats)], device)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(repeats):
        run()
    last.record()
    last.synchronize()
    milliseconds: float = first.elapsed_time(last)
    return milliseconds / 1e3
