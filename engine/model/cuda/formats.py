"""Weights of 8 or 4 bits for a card: how they are quantized, how they lie in memory, and what they take.

Consecutive inputs of an output share a scale: 128 of them in 8 bits, 32 in 4 bits. 128 is as many as one step of a
GEMM reads, so that its scale multiplies the sum of the step, in float32: weights of 8 bits are not rounded again,
whatever the precision of the activations. Scales are bfloat16: they have the range of float32, and weights are
quantized by the rounded scale, so that its few digits cost nothing. Whole numbers are stored without a sign, with an
offset of 128 or 8. A byte of 4 bits holds two inputs of one group: the lower half that of the group's first half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import DamagedWeights

BITS = {"int8": 8, "int4": 4}
GROUPS = {8: 128, 4: 32}  # inputs that share a scale
OFFSETS = {8: 128, 4: 8}
SCALE_BYTES = 2
# Of a GEMM of few tokens whose columns several programs share: the most tokens, rows of the weight, and programs. The
# scratch has room for the sums of all its parts; more tokens share it with fewer rows or parts.
FEW_TOKENS, MOST_SPLIT_ROWS, MOST_SPLIT = 64, 8192, 4
MOST_PARTIALS = MOST_SPLIT * FEW_TOKENS * MOST_SPLIT_ROWS
SCRATCH_BYTES = 4 * (MOST_PARTIALS + MOST_SPLIT_ROWS)
CHUNK_VALUES = 1 << 23  # that are quantized at a time, as float32


@dataclass(frozen=True, slots=True)
class Quantized:
    """A weight [n, k]. values: uint8 [n, bytes of a row]; scales: bfloat16 [n, groups of a row]."""

    values: Tensor
    scales: Tensor
    bits: int
    inner: int

    @classmethod
    def empty(cls, name: str, rows: int, inner: int, device: torch.device) -> Quantized:
        """Return an uninitialized weight [rows, inner] in a format of BITS."""
        bits = BITS[name]
        values = torch.empty(rows, row_bytes(inner, bits), dtype=torch.uint8, device=device)
        scales = torch.empty(rows, _groups(inner, bits), dtype=torch.bfloat16, device=device)
        return cls(values, scales, bits, inner)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight: outputs, inputs."""
        return self.values.shape[0], self.inner

    @property
    def nbytes(self) -> int:
        """The size in memory."""
        return int(self.values.nbytes + self.scales.nbytes)

    def dequantized(self) -> Tensor:
        """Return the weight that the kernels compute with, float32 [n, k]: the oracle of the tests."""
        group, whole = GROUPS[self.bits], self.values
        if self.bits == 4:
            halves = whole.view(whole.shape[0], -1, 1, group // 2)
            whole = torch.cat([halves & 15, halves >> 4], dim=2).flatten(1)
        scales = self.scales.float().repeat_interleave(group, dim=1)[:, : whole.shape[1]]
        return ((whole.float() - OFFSETS[self.bits]) * scales)[:, : self.inner]


Weight = Tensor | Quantized


def quantize(parts: Sequence[Tensor], name: str, device: torch.device) -> Quantized:
    """Return weights [n_i, k] of any float dtype, one below the other, in a format of BITS on a device.

    They may lie elsewhere: what is on the device beside the result is a chunk of them. Raises DamagedWeights.
    """
    whole, first = Quantized.empty(name, sum(part.shape[0] for part in parts), parts[0].shape[1], device), 0
    for chunk in chunks(parts):
        last = first + chunk.shape[0]
        whole.values[first:last], whole.scales[first:last] = _quantized(chunk.to(device).float(), whole.bits)
        first = last
    return whole


def row_bytes(inner: int, bits: int) -> int:
    """Return the bytes of a row of `inner` weights, without its scales."""
    return inner if bits == 8 else _groups(inner, bits) * GROUPS[bits] // 2


def quantized_bytes(name: str, out: int, inner: int) -> int:
    """Return the size of a weight [out, inner] in a format of BITS."""
    bits = BITS[name]
    return out * (row_bytes(inner, bits) + SCALE_BYTES * _groups(inner, bits))


def fp8_bytes(out: int, inner: int) -> int:
    """Return the size of a weight [out, inner] in `fp8`."""
    return out * (inner + 4)


def _groups(inner: int, bits: int) -> int:
    return -(-inner // GROUPS[bits])


def chunks(parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the rows of weights, at most CHUNK_VALUES values at a time."""
    for part in parts:
        yield from part.split(max(1, CHUNK_VALUES // part.shape[1]))


def _quantized(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return the values and scales of float32 weights [n, k]."""
    if not bool(torch.isfinite(weight).all()):
        raise DamagedWeights("a weight has values that are no finite numbers")
    group = GROUPS[bits]
    padded = torch.nn.functional.pad(weight, (0, -weight.shape[1] % group)).unflatten(1, (-1, group))
    whole, scales = (_eight_bits if bits == 8 else _four_bits)(padded)
    values = (whole + OFFSETS[bits]).to(torch.uint8)
    if bits == 4:
        low, high = values.chunk(2, dim=2)
        return (low | high << 4).flatten(1), scales
    return values.flatten(1)[:, : weight.shape[1]], scales


def _eight_bits(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers of -127 to 127 [n, groups, 128], the largest of a group at an end, and scales."""
    scales = _rounded(groups.abs().amax(2) / 127)
    return _at_scale(groups, scales.float(), 127, 127), scales


def _four_bits(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return whole numbers of -8 to 7 [n, groups, 32], and scales.

    The largest weight is near -8 or beyond it, whichever of some scales loses least; the scale is then the one that
    fits these whole numbers best, by least squares. Computed of the weights relative to the largest, which no square
    of theirs overflows. So `quantized.c` does for a processor.
    """
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    relative = torch.where(largest == 0, 0.0, groups / largest)
    best, least = torch.zeros_like(groups), torch.full_like(largest, torch.inf)
    for divisor in (-7.5, -8.0, -8.5, -9.0):
        scale = torch.full_like(largest, 1 / divisor)
        whole = _at_scale(relative, scale[..., 0], 8, 7)
        error = (relative - whole * scale).square().sum(2, keepdim=True)
        best, least = torch.where(error < least, whole, best), torch.minimum(error, least)
    fitted = (relative * best).sum(2) / best.square().sum(2).clamp(min=1)
    return best, _rounded(fitted * largest[..., 0])


def _at_scale(groups: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
    """Return the whole numbers from -low to high that are nearest to the weights at these scales, 0 at a scale of 0."""
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    return (groups * inverse[..., None]).round().clamp(-low, high)


def _rounded(scales: Tensor) -> Tensor:
    """Return scales as bfloat16, those as 0 whose inverse is no finite number.

    They are off by 2^-8 at most, so 127 stays within half a level of the weight that it stands for.
    """
    return torch.where(scales.abs() < torch.finfo(torch.float32).tiny, 0.0, scales).to(torch.bfloat16)
