"""CUDA graphs by key: a sequence of launches that the device replays as one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

WARM_UP_RUNS = 2  # before a capture: kernels are compiled and libraries allocate their workspaces
# One capture at a time in the process. Captures are local to their thread, so that the other engine may work meanwhile.
CAPTURE_LOCK = threading.Lock()


def release_cached(device: torch.device) -> None:
    """Give back to a device what was allocated there and freed: the cache of a stream serves that stream alone."""
    if device.type == "cuda":  # pragma: no cover - CUDA
        with CAPTURE_LOCK:
            torch.cuda.empty_cache()


class Graphs:
    """Captured launches. What has no graph is launched kernel by kernel."""

    def __init__(self) -> None:
        self._graphs: dict[Any, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def __iter__(self) -> Iterator[Any]:
        return iter(self._graphs)

    def run(self, key: Hashable, launch: Callable[[], object]) -> None:
        """Replay the graph of a key, or call `launch`, which gives the same result."""
        graph = self._graphs.get(key)
        if graph is None:
            launch()
        else:  # pragma: no cover - CUDA
            graph.replay()

    def capture(self, key: Hashable, launch: Callable[[], object]) -> None:  # pragma: no cover - CUDA
        """Capture what `launch` launches on the current stream; all graphs share one memory pool."""
        for _ in range(WARM_UP_RUNS):
            launch()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with CAPTURE_LOCK:
            torch.cuda.current_stream().synchronize()
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        self._graphs[key] = graph
