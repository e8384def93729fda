"""On a GPU in half precision: every CUDA graph of the flat step gives the logits of the same launches one by one.

And every way to compute a step gives those of the plain way, within rounding.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import cuda_step
from benchmarks.card.flat_steps import TOLERANCE, Steps, differences
from engine.model.cuda.batch import graph_buckets
from engine.model.cuda.tuning import Tuning

pytestmark = pytest.mark.gpu

# Other products round elsewhere.
LONGEST_COMPARED = 64
ROUNDING = {torch.float16: 1e-2, torch.bfloat16: 6e-2}
WAYS = {
    "all": Tuning(),
    "merging": Tuning(last_merges=True, part_keys=64),
    "short parts": Tuning(skinny=False, dependent=False, part_keys=64),
}


def steps_of(shape, dtype, device, monkeypatch):
    """Return two layers of a model with sequences, tiny ones on the CPU, and the tokens of the longest step."""
    real = device == "cuda"
    layers = {"layers": 2, "vocabulary": 4096} if real else cuda_step.SHAPES["tiny"]
    monkeypatch.setitem(cuda_step.SHAPES, shape, {**cuda_step.SHAPES[shape], **layers})
    monkeypatch.setitem(cuda_step.FEED_FORWARD, shape, cuda_step.FEED_FORWARD[shape] if real else 128)
    rows, longest = (256, 512) if real else (4, 8)
    return Steps(cuda_step.weights_of(shape, device, dtype), rows, longest, 2100 if real else 40), longest


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", ["8b", "7b"])
def test_every_graph_equals_eager_launches(shape, dtype, device, monkeypatch):
    """Decode rows alone, one of them long, and chunks beside them, for each number of tokens that has a graph."""
    steps, longest = steps_of(shape, dtype, device, monkeypatch)
    captured, eager = (steps.step(steps.rows, longest, graphs) for graphs in (True, False))
    for tokens in graph_buckets(longest):
        difference, greatest, finite = differences(steps.plan(tokens), captured, eager, device)
        assert finite, tokens
        assert greatest > 0, tokens
        assert difference <= TOLERANCE * greatest, tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", ["8b", "7b"])
def test_every_way_gives_the_logits_of_the_plain_one(shape, dtype, way, device, monkeypatch):
    """Replayed several times in a row, which would show a kernel that does not wait for the one ahead of it."""
    steps, longest = steps_of(shape, dtype, device, monkeypatch)
    longest = min(longest, LONGEST_COMPARED)
    plain = steps.step(steps.rows, longest, True, Tuning(skinny=False, dependent=False))
    tuned = steps.step(steps.rows, longest, True, WAYS[way])
    for tokens in graph_buckets(longest):
        for _ in range(5):
            difference, greatest, finite = differences(steps.plan(tokens), tuned, plain, device)
            assert finite, tokens
            assert difference <= ROUNDING[dtype] * greatest, tokens
