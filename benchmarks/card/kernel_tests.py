"""The tests of the kernels, which a machine without a card runs in Triton's interpreter, on the card."""

from __future__ import annotations

from benchmarks.card.gpu_tests import run_tests
from benchmarks.card.record import Options, Rows


def kernel_tests(options: Options) -> Rows:
    """Yield what pytest says of them; those that compile for other cards or need none are left out."""
    yield from run_tests("tests/engine/model/cuda", "tests/engine", "kernel", options)
