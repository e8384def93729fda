"""The kernels run on the card if there is one, otherwise on CPU tensors in Triton's interpreter (tests/conftest.py)."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# There is no Triton elsewhere.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]
# A borrowed machine with a card may lack it, and the plan is no kernel.
collect_ignore = [] if find_spec("hypothesis") else ["test_attention_plan.py"]


def pytest_collection_modifyitems(items):
    """Mark the tests that run a kernel, by which `python -m benchmarks.card` finds them.

    Measure the coverage of one precision alone: others run the same lines, and to trace the interpreter takes more than
    twice the time.
    """
    for item in items:
        if Path(__file__).parent != item.path.parent:
            continue
        if "device" in item.fixturenames:
            item.add_marker("kernel")
        if hasattr(item, "callspec") and item.callspec.params.get("dtype", "float32") != "float32":
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def device():
    """The device that the kernels run on."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    round_to_bfloat16()
    multiply_in_bfloat16()
    refuse_unknown_keywords()
    return torch.device("cpu")


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request):
    """Each precision that a model is loaded in."""
    import torch

    return getattr(torch, request.param)


@pytest.fixture
def grid_order(device, monkeypatch):
    """Let the interpreter run programs as a card starts them: of the grid's axes the first is the fastest.

    The interpreter runs one program after another with the last axis as the fastest, which hides what the programs of
    other parts of a result write before this one has all of its own.
    """
    if device.type == "cuda":
        return
    from triton.runtime.interpreter import InterpreterBuilder

    set_index = InterpreterBuilder.set_grid_idx

    def first_axis_fastest(builder, x, y, z):
        first, second, third = builder.grid_dim
        done = (x * second + y) * third + z
        set_index(builder, done % first, done // first % second, done // (first * second))

    monkeypatch.setattr(InterpreterBuilder, "set_grid_idx", first_axis_fastest)


def refuse_unknown_keywords():
    """Let the interpreter refuse the keywords of a launch that the compiler refuses; Triton 3.7 drops them."""
    import inspect
    from dataclasses import fields

    from triton.backends.nvidia.compiler import CUDAOptions
    from triton.runtime.interpreter import GridExecutor

    call, options = GridExecutor.__call__, {field.name for field in fields(CUDAOptions)}

    def checked(self, *args, **kwargs):
        unknown = kwargs.keys() - options - {*inspect.getfullargspec(self.fn).args}
        if unknown:
            raise KeyError(f"Keyword argument {', '.join(unknown)} was specified but unrecognised")
        return call(self, *args, **kwargs)

    GridExecutor.__call__ = checked


def round_to_bfloat16():
    """Let the interpreter round to the nearest bfloat16 or e4m3, ties to even, as a card does; Triton 3.7 does not."""
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values, source, target, mode):
        if (source, target) == (tl.float32, tl.float8e4nv):
            bits = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(torch.float8_e4m3fn)
            return bits.view(torch.uint8).numpy()
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
