"""Kernels are compiled before the service is ready, never at a request."""

from __future__ import annotations

import pytest

from tests.engine.model.cuda import variants

COMMON = {"attend_kernel", "_embed_tokens", "_take_rows", "_rotary_tables", "draw"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("quant", "dtype", "longest", "own"),
    [
        ("none", "float32", 2200, {"compact", "mask_row", "adjust_row"}),
        ("none", "float16", 8449, {"_skinny"}),
        ("int8", "float16", 8449, {"_packed_gemm"}),
        ("int4", "float16", 5697, {"_packed_gemm"}),
    ],
)
def test_steps_launch_no_variant_of_a_kernel_that_the_start_has_not_compiled(quant, dtype, longest, own):
    """Whatever the number of tokens and rows, the weights, and how rows sample."""
    found = variants.found(quant, dtype, longest)
    assert {variant.split()[0] for variant in found["launched"]} >= COMMON | own
    assert set(found["launched"]) <= set(found["compiled"])
