"""Ways to compute a flat step that give the same results within rounding, of which the device decides the fastest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.model.cuda.attention_plan import MULTIPROCESSORS, PART_KEYS

MEASURED_CAPABILITY = 9  # the major number of the cards whose GEMMs of few tokens were measured


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the kernels of a step are chosen and launched.

    skinny: multiply at most 16 tokens with our own kernels, for the weights that `gemm.TILES` lists. dependent:
    start each kernel while the one ahead ends, where the device can. last_merges: the last program of attention to
    arrive merges the parts of a context, instead of a launch of its own. part_keys: of the shortest part of a context.
    """

    skinny: bool = True
    dependent: bool = True
    last_merges: bool = True
    part_keys: int = PART_KEYS


def tuning_for(device: torch.device) -> Tuning:
    """Return what is the fastest on a device, as far as it was measured."""
    if device.type != "cuda":
        return Tuning()
    major, _ = torch.cuda.get_device_capability(device)  # pragma: no cover - CUDA
    return Tuning(skinny=major == MEASURED_CAPABILITY)  # pragma: no cover - CUDA


def multiprocessors_of(device: torch.device) -> int:
    """Return how many multiprocessors a device has, MULTIPROCESSORS where it is no card."""
    if device.type != "cuda":
        return MULTIPROCESSORS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count  # pragma: no cover - CUDA
    return count  # pragma: no cover - CUDA
