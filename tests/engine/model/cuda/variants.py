"""Lists the variants of the Triton kernels that a start compiles, and those that steps launch afterwards.

Triton compiles a kernel anew for other types of its arguments, for other compile-time constants, for numbers that are 1
or multiples of 16, and for pointers that are or are not multiples of 16 bytes. Here its own code derives the variant of
every launch, on CPU tensors, and nothing is compiled or run.

`python -m tests.engine.model.cuda.variants QUANT DTYPE LONGEST` without TRITON_INTERPRET prints one JSON object:
"compiled" and "launched".
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace

import torch

from engine.schedule.adjustments import Adjustments
from engine.schedule.sequence import Phase
from engine.types import SamplingParams
from tests.engine.model.cuda.compile_kernels import ROOT, CompilingDriver, compiling

VARIED_ROWS = 30  # not a multiple of 4
SIZES = (1, 2, 3, 5, 9, 16, 17, 20, 30, 31, 40, 63, 100, 130, 257, 500, 513, 600, 1000, 1025, 2000, 2200)  # tokens
BITMASKS = (1, 2, 47, 48)  # words
ADJUSTED = (0, 1, 8, 9)  # tokens


def found(quant, dtype, longest):
    """Return the two lists; runs in a process of its own, since this one may be interpreting.

    quant, dtype: of the weights, those of two bytes with our own GEMMs; longest: tokens of a step.
    """
    command = [sys.executable, "-m", __name__, quant, dtype, str(longest)]
    done = subprocess.run(command, cwd=ROOT, env=compiling(), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(quant, dtype, longest):
    """Start a flat step, then launch steps of many sizes with every kind of sampling."""
    import triton
    from triton.runtime.jit import JITFunction

    from benchmarks.card.flat_steps import Steps
    from benchmarks.cuda_step import weights_of
    from engine.model.cuda import gemm
    from engine.model.cuda.skinny import default_meta

    if dtype != "float32":
        gemm.tiles_for = lambda tokens, weight: default_meta(tokens, *weight.shape) if tokens <= 16 else None

    triton.runtime.driver.set_active(CompilingDriver(90))
    variants = set()

    def record(self, *arguments, grid, warmup, **options):
        _, _, _, _, binder = self.device_caches[90]
        _, specialization, chosen = binder(*arguments, **options, debug=False)
        variants.add(f"{self.fn.__name__} {specialization} {chosen}")

    JITFunction.run = record
    steps = Steps(weights_of("tiny", "cpu", getattr(torch, dtype), quant), VARIED_ROWS, longest)
    step = steps.step(VARIED_ROWS, longest, graphs=False)
    step.warm_up()
    compiled, launched = set(variants), set()
    # How a token is chosen does not depend on the weights.
    for sampling in kinds() if dtype == "float32" else islice(kinds(), 2):
        for row in steps._rows:
            ask(row, sampling)
        for tokens in SIZES:
            variants.clear()
            step.launch(steps.plan(tokens)).choose()
            launched |= variants
    print(json.dumps({"compiled": sorted(compiled), "launched": sorted(launched)}))


def ask(row, sampling):
    """Have a row sampled by parameters of `kinds`."""
    row.sampling, row.adjustments = sampling, sampling.adjustments
    row.biases = () if row.adjustments is None else (row.adjustments.bias_ids, row.adjustments.biases)
    row.phase = Phase.RUNNING
    row.adjusts_logits = sampling.token_mask is not None or row.adjustments is not None


def kinds():
    """Yield sampling parameters: greedy, plain, ranked, with log probabilities, grammars, biases and penalties."""
    plain = {
        "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "logprobs": None, "token_mask": None,
        "adjustments": None, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0,
    }  # fmt: skip
    changed = ({"temperature": 0.0}, {}, {"top_p": 0.9}, {"logprobs": 5}, *map(grammar, BITMASKS))
    for changes in (*changed, *map(adjusted, ADJUSTED)):
        yield SimpleNamespace(**plain | changes)


def grammar(words):
    """Return parameters with a grammar, whose bitmask has so many words."""
    mask = torch.full((words,), -1, dtype=torch.int32).numpy()
    return {"token_mask": SimpleNamespace(bitmask=lambda: mask)}


def adjusted(tokens):
    """Return parameters with so many biases, and penalties of as many tokens of the prompt."""
    params = SamplingParams(1, repetition_penalty=1.05, logit_bias=dict.fromkeys(range(tokens), 1.0))
    return {"repetition_penalty": 1.05, "adjustments": Adjustments(params, range(tokens))}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
