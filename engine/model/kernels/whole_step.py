"""All layers of a step in one call of the kernels: what they read is described to them once, and once a step.

The same kernels in the same order as `Decoder.forward` calls them one by one: the results are equal to the bit. Between
two calls from Python the interpreter takes longer than some of them, and needs its lock again for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.library import LAYER, STEP, GemmArguments, Kernels

Norm = tuple[Tensor | None, float]  # weights, None where there are none, and eps


class Attention(Protocol):
    """Describes the attention of a step."""

    def describe(self, step: np.ndarray) -> object:
        """Set its fields of a step (STEP); return what must be kept alive."""
        ...


class WholeStep:
    """Computes the layers of a model.

    norms: of each layer: input, heads, after attention; gemms: of each layer: qkv, out, gate_up, down; last: the
    norm after the layers; shape: hidden size, heads, key heads, size of a head.
    """

    def __init__(
        self,
        kernels: Kernels,
        norms: Sequence[Sequence[Norm]],
        gemms: Sequence[Sequence[GemmArguments]],
        last: Norm,
        shape: tuple[int, int, int, int],
    ) -> None:
        self._kernels, self._kept = kernels, (norms, last)
        self._layers = np.zeros(len(norms), LAYER)
        for row, own, linear in zip(self._layers, norms, gemms, strict=True):
            row["input_norm"], row["head_norms"], row["post_norm"] = (_pointer(weight) for weight, _ in own)
            row["qkv"], row["out"], row["gate_up"], row["down"] = linear
        self._step = np.zeros(1, STEP)
        self._set(layers=self._layers.ctypes.data, count=len(norms), last_norm=_pointer(last[0]))
        self._set(eps=last[1], head_eps=norms[0][1][1])
        self._set(**dict(zip(("width", "heads", "kv_heads", "dim"), shape, strict=True)))

    def __call__(self, hidden: Tensor, rotary: Tensor, attention: Attention, keep: Tensor | None) -> Tensor:
        """As `Decoder.forward`."""
        hidden, rotary = hidden.contiguous(), rotary.contiguous()
        kept = len(hidden) if keep is None else len(keep)
        result = hidden.new_empty(kept, hidden.shape[1])
        self._set(hidden=hidden.data_ptr(), result=result.data_ptr(), rotary=rotary.data_ptr(), keep=_pointer(keep))
        self._set(rows=len(hidden), kept=kept, threads=torch.get_num_threads())
        alive = attention.describe(self._step)
        self._kernels.layers(self._step)
        del alive
        return result

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            self._step[name] = value


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
