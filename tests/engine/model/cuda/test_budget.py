"""What one flat step launches at the real shapes: few operations, none of which the host waits for."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.card.flat_steps import Steps
from benchmarks.cuda_step import weights_of
from tests.engine.model.cuda.compile_kernels import ROOT
from tests.engine.model.cuda.launches import launches_of
from tests.engine.model.cuda.variants import adjusted, ask, kinds
from tests.system_programs import unmeasured

ROWS, CHUNK = 64, 256
KINDS = list(kinds())
LAUNCHES_A_LAYER = 10
LAYERS = {"8b": 36, "7b": 28}
# Beside the layers: inputs, embedding, angles, rows to sample, norm, head, its rounding (which CUDA does not need),
# sampler and result. A step with rows that rank their tokens has two more.
OTHERS = {"plain": 10, "ranked": 12}


def test_quantized_weights_cost_no_launches():
    """A GEMM is one launch, which adds to the residual itself; nothing is dequantized beside it."""
    steps = Steps(weights_of("7b", "meta", torch.float16, "int8"), ROWS + 1, 512)
    launches = launches_of(steps, ROWS)
    assert launches.total < LAUNCHES_A_LAYER * LAYERS["7b"] + OTHERS["plain"], launches.counts
    assert launches.counts["_packed_gemm"] == 4 * LAYERS["7b"] + 1
    assert (launches.gemms, launches.blocking) == (0, [])


@pytest.mark.parametrize("shape", LAYERS)
@pytest.mark.parametrize("rows", OTHERS)
@pytest.mark.parametrize("tokens", [ROWS, ROWS + CHUNK])
def test_a_step_launches_few_operations_and_waits_for_none(shape, rows, tokens):
    """64 decode rows, and the same with a chunk of 256 tokens, in one pass over the weights."""
    steps = Steps(weights_of(shape, "meta", torch.float16), ROWS + 1, 512, top_p=0.9 if rows == "ranked" else 1.0)
    launches = launches_of(steps, tokens)
    assert launches.total <= LAUNCHES_A_LAYER * LAYERS[shape] + OTHERS[rows], launches.counts
    assert launches.gemms == 4 * LAYERS[shape] + 1
    assert launches.copies == 2  # the inputs, and the tokens
    assert launches.blocking == []


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_whatever_rows_ask_the_host_waits_for_no_launch(kind, new):
    """Greedy, plain and ranked rows, log probabilities, grammars and penalties, of known rows and of new ones."""
    steps = Steps(weights_of("8b", "meta", torch.float16), ROWS + 1, 512)
    for row in steps._rows:
        ask(row, KINDS[kind])
    launches = launches_of(steps, ROWS + CHUNK, new)
    assert launches.copies >= (ROWS if new else 2)
    assert launches.blocking == []


@pytest.mark.parametrize("rows", [1, ROWS])
def test_biases_and_penalties_cost_one_launch_and_one_copy(rows):
    """However many rows have them, and however many tokens."""
    steps = Steps(weights_of("8b", "meta", torch.float16), ROWS + 1, 512, top_p=1.0)
    for row in steps._rows[:rows]:
        ask(row, SimpleNamespace(**vars(KINDS[1]) | adjusted(3000)))
    launches = launches_of(steps, ROWS)
    assert launches.counts["adjust_row"] == 1
    assert launches.total <= LAUNCHES_A_LAYER * LAYERS["8b"] + OTHERS["plain"] + 2, launches.counts
    assert launches.blocking == []


def test_the_fake_card_runs_a_step():
    """On `meta` tensors, in a process of its own, whose streams and kernels it replaces for good."""
    command = [sys.executable, "-m", "tests.engine.model.cuda.fake_cuda", "meta"]
    done = subprocess.run(command, cwd=ROOT, env=unmeasured(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("blocking: none") == 6
