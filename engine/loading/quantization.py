"""What the weights of a model take in the format that they are computed in, and which formats a device has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from safetensors import safe_open

from engine.errors import DamagedWeights, StartError
from engine.loading.checkpoint import ARCHITECTURES, Checkpoint, find_checkpoint
from engine.loading.host import compute_capability
from engine.model.cuda.formats import fp8_bytes, quantized_bytes
from engine.model.kernels.library import load_kernels
from engine.model.kernels.packed import packed_bytes
from engine.types import ModelSpec

Shapes = Iterable[tuple[str, Sequence[int]]]
INTEGERS = ("int8", "int4")
FP8_CAPABILITY = (8, 9)  # the compute capability of the first cards that multiply FP8
FP8_MULTIPLE = 16  # of inputs and outputs


def check_quant(spec: ModelSpec, capability: Callable[[str], tuple[int, int]] = compute_capability) -> None:
    """Raise StartError, with what the device can do, if it does not compute weights in the format of the spec.

    capability: returns the compute capability of a GPU.
    """
    if spec.quant == "none":
        return
    on_processor = spec.device_type == "cpu"
    stated = f"{spec.quant_setting}={spec.quant}"
    if on_processor and load_kernels() is None:
        raise StartError(
            f"{stated}: expected none here: quantized weights need an x86-64 processor with AVX2, and gcc to compile "
            f"their kernels."
        )
    if spec.quant in INTEGERS:
        return
    expected = f"{stated}: expected none, {' or '.join(INTEGERS)} on {spec.device}"
    if on_processor or capability(spec.device) < FP8_CAPABILITY:
        raise StartError(f"{expected}: fp8 needs a GPU of compute capability 8.9 or above.")
    for name, shape in _checkpoint(spec).shapes.items():
        is_linear = _is_quantized(name, shape, spec.quant) and not _of_vocabulary(name)
        if is_linear and any(size % FP8_MULTIPLE for size in shape):
            raise StartError(
                f"{expected}: fp8 needs multiples of {FP8_MULTIPLE}, and {name} is {shape[0]} x {shape[1]}."
            )


def weight_bytes(shapes: Shapes, quant: str, itemsize: int, device_type: str = "cpu") -> int:
    """Return the size of weights in memory, by their names and shapes. itemsize: bytes of one that is not quantized."""
    return sum(
        _size(name, shape, quant, device_type) if _is_quantized(name, shape, quant) else math.prod(shape) * itemsize
        for name, shape in shapes
    )


def _size(name: str, shape: Sequence[int], quant: str, device_type: str) -> int:
    if device_type == "cpu":
        return packed_bytes(quant, shape[0], shape[1])
    if quant != "fp8":
        return quantized_bytes(quant, shape[0], shape[1])
    return quantized_bytes("int8", shape[0], shape[1]) if _of_vocabulary(name) else fp8_bytes(shape[0], shape[1])


@contextmanager
def naming_damage(spec: ModelSpec) -> Iterator[None]:
    """Raise, for weights in the block that cannot be quantized, a StartError with the name of the first of them."""
    try:
        yield
    except DamagedWeights as error:
        name = next(_damaged(spec), "one of the weights")
        raise StartError(
            f"{spec.dir_setting}: {name} in {spec.model_dir} has values that are no finite numbers, so it cannot be "
            f"quantized: copy the checkpoint again."
        ) from error


def _damaged(spec: ModelSpec) -> Iterator[str]:
    """Yield the names of the tensors of a checkpoint that have values that are no finite numbers."""
    for file in sorted(_checkpoint(spec).folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # it is no mapping
                if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                    yield name


def _checkpoint(spec: ModelSpec) -> Checkpoint:
    return find_checkpoint(spec.model_dir, spec.dir_setting, ARCHITECTURES["avision" if spec.vision else "avibe"])


def _of_vocabulary(name: str) -> bool:
    """Return whether a weight is that of the embeddings or of the head, which are never in FP8."""
    return "embed_tokens" in name or "lm_head" in name


def _is_quantized(name: str, shape: Sequence[int], quant: str) -> bool:
    """Return whether a weight is one of the linear layers or the embeddings of the text stack."""
    return quant != "none" and len(shape) == 2 and "visual." not in name
