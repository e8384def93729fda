"""On a GPU no request waits for a kernel to be compiled, with CUDA graphs or without."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
import triton
import triton.language as tl
from triton import knobs

from engine.types import GenerationRequest, SamplingParams, TokensPrompt

pytestmark = pytest.mark.gpu

TEXT_TOKENS = 400  # ids below are text in every test vocabulary
LENGTHS = (3, 20, 100, 500, 900)  # tokens of prompts, the last one of a step that no graph is as large as
LIMITS = {"max_num_batched_tokens": 1024, "max_num_seqs": 16}


class EveryToken:
    """A grammar that allows every token."""

    ready = quick = True
    step_seconds = usual_seconds = spent = 0.0

    def __init__(self, vocabulary):
        self._words = np.full(-(-vocabulary // 32), -1, dtype=np.int32)

    def bitmask(self):
        """Return one bit for each token."""
        return self._words

    def accept(self, token_id):
        """Go on."""
        return True

    def prepare(self):
        """It is always there."""


@pytest.mark.parametrize("graphs", [True, False])
def test_requests_compile_nothing(checkpoints, device, monkeypatch, graphs):
    """Whatever their length and however they sample, alone and several at once."""
    compiled = []
    forget_kernels()  # what another case has compiled is not found
    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", lambda **launch: compiled.append(launch["repr"]))
    lengths, dtype = (LENGTHS, "float16") if device == "cuda" else (LENGTHS[:2], "float32")
    with checkpoints["text"].serving(dtype, cuda_graphs=graphs, **LIMITS) as engine:
        compiled.clear()
        kinds = (
            {"temperature": 0.0},
            {},
            {"top_p": 0.9, "top_k": 20},
            {"logprobs": 5},
            {"repetition_penalty": 1.1, "presence_penalty": 0.5, "logit_bias": {5: 1.0}},
            {"token_mask": EveryToken(len(engine.vocabulary().tokens))},
        )
        for kind in kinds:
            for together in (*((length,) for length in lengths), lengths):
                answers = [engine.submit(request(length, kind)) for length in together]
                assert [answer.result().output_tokens for answer in answers] == [4] * len(together)
        assert compiled == []
    if device == "cuda":
        write_number[(1,)](torch.zeros(1, device=device), NUMBER=1 + graphs)
        assert len(compiled) == 1  # so the hook would have told


def forget_kernels():
    """Empty what the kernels of the engine keep of this process, as if it had just begun."""
    for name, module in list(sys.modules.items()):
        for kernel in vars(module).values() if name.startswith("engine.model.cuda.") else ():
            if isinstance(kernel, triton.JITFunction):
                kernel.device_caches.clear()


@triton.jit
def write_number(out, NUMBER: tl.constexpr):
    """A kernel that no engine has."""
    tl.store(out, NUMBER)


def request(length, kind):
    """Return a request with a prompt of so many tokens."""
    prompt = TokensPrompt(tuple(token % TEXT_TOKENS for token in range(length)))
    sampling = SamplingParams(4, ignore_eos=True, **kind)
    return GenerationRequest("r", prompt, sampling, queue_timeout=300.0, timeout=300.0)
