"""All layers of a step in one call of the kernels: what they read is described to them once, and once a step.

The same kernels in the same order as `Decoder.forward` calls them one by one: the results are equal to the bit. Between
two calls from Python the interpreter takes longer than some of them, and needs its lock again for each. After a step
has read the weights, nothing else is in the processor's caches: each operation of torch or NumPy that a step calls
first then costs some tens of microseconds, so that a step of text alone calls none but for the memory of its logits.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from engine.model.kernels.library import GEMM, LAYER, STEP, GemmArguments, Kernels

Norm = tuple[Tensor | None, float]  # weights, None where there are none, and eps

_PLACES = {name: field[1] // 8 for name, field in (STEP.fields or {}).items()}  # words of 64 bits
_HEAD = slice(_PLACES["head"], _PLACES["head"] + GEMM.itemsize // 8)


class StepFields:
    """The fields of a step (STEP). address: where they are."""

    def __init__(self) -> None:
        self._words = array("q", bytes(STEP.itemsize))
        self.address = self._words.buffer_info()[0]

    def set(self, **fields: int) -> None:
        """Set fields of 64 bits."""
        for name, value in fields.items():
            self._words[_PLACES[name]] = value

    def set_head(self, head: GemmArguments) -> None:
        """Set the linear layer that computes the logits."""
        self._words[_HEAD] = array("q", head)

    def set_once(self, **fields: object) -> None:
        """Set fields of any kind, which takes longer."""
        for name, value in fields.items():
            np.frombuffer(self._words, STEP)[name] = value


class Attention(Protocol):
    """Describes the attention of a step."""

    def describe(self, step: StepFields) -> object:
        """Set its fields of a step; return what must be kept alive."""
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
        self._step = StepFields()
        self._step.set(layers=self._layers.ctypes.data, count=len(norms), last_norm=_pointer(last[0]))
        self._step.set(**dict(zip(("width", "heads", "kv_heads", "dim"), shape, strict=True)))
        self._step.set_once(eps=last[1], head_eps=norms[0][1][1])

    def __call__(self, hidden: Tensor, rotary: Tensor, attention: Attention, keep: Tensor | None) -> Tensor:
        """As `Decoder.forward`."""
        hidden, rotary = hidden.contiguous(), rotary.contiguous()
        kept = len(hidden) if keep is None else len(keep)
        result = hidden.new_empty(kept, hidden.shape[1])
        self._step.set(hidden=hidden.data_ptr(), result=result.data_ptr(), rotary=rotary.data_ptr(), ids=0)
        self._step.set(keep=_pointer(keep), kept=kept, rows=len(hidden))
        self._compute(attention)
        return result

    def logits(
        self,
        tokens: tuple[array[int], array[int]],
        attention: Attention,
        keep: array[int] | None,
        head: GemmArguments,
        rows: tuple[int, int],
        rotations: Tensor,
    ) -> Tensor:
        """Return the logits [rows in `keep`, or all, vocabulary] of tokens: their ids and positions.

        keep: as in `Decoder.forward`; rows: where the embeddings are, and their kind, 0 for plain float32; rotations:
        complex [positions, D / 2], a factor for each position.
        """
        ids, positions = tokens
        kept = len(ids) if keep is None else len(keep)
        logits = torch.empty(kept, head[2], dtype=torch.float32)
        step = self._step
        step.set(ids=ids.buffer_info()[0], positions=positions.buffer_info()[0], rotations=rotations.data_ptr())
        step.set(logits=logits.data_ptr(), embeddings=rows[0], embeddings_kind=rows[1])
        step.set(keep=0 if keep is None else keep.buffer_info()[0], kept=kept, rows=len(ids))
        step.set_head(head)
        self._compute(attention)
        return logits

    def _compute(self, attention: Attention) -> None:
        step = self._step
        step.set(threads=torch.get_num_threads())
        alive = attention.describe(step)
        scratch = self._kernels.scratch(self._kernels.layers_scratch(step.address))
        step.set(scratch=scratch.data_ptr())
        self._kernels.layers(step.address)
        del alive


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
