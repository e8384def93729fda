"""On a GPU in half precision: every CUDA graph of the flat step gives the logits of the same launches one by one."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import cuda_step
from benchmarks.card.flat_steps import Steps, differences
from engine.model.cuda.batch import graph_buckets

pytestmark = pytest.mark.gpu

# Of the greatest logit. Both launch the same kernels; only a library may choose another product for a capture.
TOLERANCE = 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", ["8b", "7b"])
def test_every_graph_equals_eager_launches(shape, dtype, device, monkeypatch):
    """Decode rows alone, one of them long, and chunks beside them, for each number of tokens that has a graph."""
    real = device == "cuda"
    layers = {"layers": 2, "vocabulary": 4096} if real else cuda_step.SHAPES["tiny"]
    monkeypatch.setitem(cuda_step.SHAPES, shape, {**cuda_step.SHAPES[shape], **layers})
    monkeypatch.setitem(cuda_step.FEED_FORWARD, shape, 12_288 if real else 128)
    rows, longest = (256, 512) if real else (4, 8)
    steps = Steps(cuda_step.weights_of(shape, device, dtype), rows, longest, 2100 if real else 40)
    captured, eager = (steps.step(rows, longest, graphs) for graphs in (True, False))
    for tokens in graph_buckets(longest):
        difference, greatest, finite = differences(steps.plan(tokens), captured, eager, device)
        assert finite, tokens
        assert greatest > 0, tokens
        assert difference <= TOLERANCE * greatest, tokens
