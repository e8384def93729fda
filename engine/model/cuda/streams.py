"""The streams of one engine on a CUDA device.

Decode steps run on a stream of high priority, so that the prompts of one model, and its images, do not hold up the
decode steps of the other on the same card. Both streams work in the order of the launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

URGENT_PRIORITY = -1  # lower numbers go first; the device clamps them to what it has


class Streams:
    """Two streams that take turns, or none on the CPU. Used by the engine's thread only."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: torch.cuda.Stream | None = None
        if device.type == "cuda":  # pragma: no cover - CUDA
            # The weights were loaded by this thread. To wait for the whole device breaks what another model captures.
            torch.cuda.current_stream(device).synchronize()
            self._urgent = torch.cuda.Stream(device, priority=URGENT_PRIORITY)
            self._patient = torch.cuda.Stream(device)
            torch.cuda.set_stream(self._urgent)
            self._last = self._urgent

    def mark(self) -> Callable[[], None]:
        """Return what waits until the device has done all that was launched so far, and for nothing after it."""
        if self._last is None:
            return _no_wait
        arrived = torch.cuda.Event()  # pragma: no cover - CUDA
        arrived.record()  # pragma: no cover - CUDA
        return arrived.synchronize  # pragma: no cover - CUDA

    @contextmanager
    def turn(self, urgent: bool) -> Iterator[None]:
        """Launch what is in the block after all launches before it."""
        if self._last is None:
            yield
            return
        stream = self._urgent if urgent else self._patient  # pragma: no cover - CUDA
        if stream is not self._last:  # pragma: no cover - CUDA
            stream.wait_stream(self._last)
            self._last = stream
        with torch.cuda.stream(stream):  # pragma: no cover - CUDA
            yield


def _no_wait() -> None:
    """Wait for nothing: the processor has done it."""
