"""What the weights of a model take in the format that they are computed in, and which formats a device has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from engine.errors import StartError
from engine.model.kernels.library import load_kernels
from engine.model.kernels.packed import packed_bytes
from engine.types import ModelSpec

Shapes = Iterable[tuple[str, Sequence[int]]]


def check_quant(spec: ModelSpec) -> None:
    """Raise StartError, with what the device can do, if it does not compute weights in the format of the spec."""
    if spec.quant == "none":
        return
    stated = f"{spec.quant_setting}={spec.quant}"
    if spec.device_type != "cpu":
        raise StartError(f"{stated}: expected none on {spec.device}: quantized weights are computed on the processor.")
    if load_kernels() is None:
        raise StartError(
            f"{stated}: expected none here: quantized weights need an x86-64 processor with AVX2, and gcc to compile "
            f"their kernels."
        )


def weight_bytes(shapes: Shapes, quant: str, itemsize: int) -> int:
    """Return the size of weights in memory, by their names and shapes. itemsize: bytes of one that is not quantized."""
    return sum(
        packed_bytes(quant, shape[0], shape[1]) if _is_quantized(name, shape, quant) else math.prod(shape) * itemsize
        for name, shape in shapes
    )


def _is_quantized(name: str, shape: Sequence[int], quant: str) -> bool:
    """Return whether a weight is one of the linear layers or the embeddings of the text stack."""
    return quant != "none" and len(shape) == 2 and "visual." not in name
