"""The kernels run on the card if there is one, otherwise on CPU tensors in Triton's interpreter (tests/conftest.py)."""

from __future__ import annotations

import sys

import numpy as np
import pytest

# There is no Triton elsewhere.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@pytest.fixture(scope="session")
def device():
    """The device that the kernels run on."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    round_to_bfloat16()
    multiply_in_bfloat16()
    return torch.device("cpu")


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request):
    """Each precision that a model is loaded in."""
    import torch

    return getattr(torch, request.param)


def round_to_bfloat16():
    """Let the interpreter round to the nearest bfloat16, ties to even, as the card does; Triton 3.7 truncates."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values, source, target, mode):
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert(values, source, target, mode)
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        up = bits + 0x7FFF + ((bits >> 16) & 1)
        return np.where(np.isnan(values), 0x7FC0, up >> 16).astype(np.uint16)

    interpreter._convert_float = rounded


def multiply_in_bfloat16():
    """Let the interpreter multiply matrices of bfloat16; Triton 3.7 multiplies their bits."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    multiply = InterpreterBuilder.create_dot

    def widened(builder, *operands):
        a, b, *rest = operands
        if a.dtype == tl.bfloat16:
            a, b = (TensorHandle((part.data.astype(np.uint32) << 16).view(np.float32), tl.float32) for part in (a, b))
        return multiply(builder, a, b, *rest)

    InterpreterBuilder.create_dot = widened
