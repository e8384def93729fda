"""Memory bandwidth of a device, measured by copying, and the lower bound that it sets for a decode step."""

from __future__ import annotations

import time

import torch

COPIED_BYTES = {"cuda": 2**31, "cpu": 2**26}
COPIES = 20


def copy_bandwidth(device: str) -> float:
    """Return bytes per second, read plus written, of the fastest of several copies of one large tensor."""
    source = torch.ones(COPIED_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(_copy_seconds(source, target) for _ in range(COPIES))
    bandwidth = 2 * source.numel() / seconds
    del source, target
    if device == "cuda":
        torch.cuda.empty_cache()  # frees the memory for the models
    return bandwidth


def floor_seconds(weights: int, cached: float, bandwidth: float) -> float:
    """Return the least seconds of a decode step that reads the weights and every row's cache once, in bytes."""
    return (weights + cached) / bandwidth


def _copy_seconds(source: torch.Tensor, target: torch.Tensor) -> float:
    _wait(source)
    began = time.perf_counter()
    target.copy_(source)
    _wait(source)
    return time.perf_counter() - began


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
