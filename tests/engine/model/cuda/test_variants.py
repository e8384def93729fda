"""Kernels are compiled before the service is ready, never at a request."""

from __future__ import annotations

import pytest

from tests.engine.model.cuda import variants


@pytest.mark.slow
def test_steps_launch_no_variant_of_a_kernel_that_the_start_has_not_compiled():
    """Whatever the number of tokens and rows, and however they sample."""
    found = variants.found()
    names = {variant.split()[0] for variant in found["launched"]}
    assert names >= {
        "attend_kernel",
        "_embed_tokens",
        "_take_rows",
        "_rotary_tables",
        "compact",
        "draw",
        "mask_row",
        "adjust_row",
    }
    assert set(found["launched"]) <= set(found["compiled"])
