"""What the tests on a GPU share. GPU_TESTS_DEVICE=cpu rehearses them without one.

They load neither the conftest above nor the web's packages, so that a borrowed machine can run them:
`python -m pytest tests/gpu -c /dev/null --rootdir=. --confcutdir=tests/gpu --import-mode=importlib`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

if os.environ.get("GPU_TESTS_DEVICE") == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of Triton, which reads it

import pytest
import torch

from engine.llm_engine import LLMEngine
from engine.loading.loader import load_model
from engine.types import EngineConfig
from tests.checkpoints import text_spec, vision_spec, write_text_checkpoint, write_vision_checkpoint

SPECS = {"text": text_spec, "vision": vision_spec}
# Heads as in the real models: four query heads over a key head for text, seven for vision, 128 wide.
SHAPES = {
    "text": {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128},
    "vision": {
        "hidden_size": 896, "num_attention_heads": 7, "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
}  # fmt: skip
# Random weights of a larger model get smaller ones, so that float16 holds its hidden states.
RANGES = {"text": 0.1, "vision": 0.05}


class Checkpoint:
    """A random checkpoint with the heads of a real model, and the device of these tests."""

    def __init__(self, kind, folder, device):
        self.kind, self.folder, self.device = kind, folder, device

    def load(self, dtype):
        """Return the loaded model."""
        return load_model(self.spec(dtype), lambda progress: None)

    def spec(self, dtype):
        """Return its specification."""
        return SPECS[self.kind](self.folder, device=self.device, dtype=dtype)

    def engine(self, dtype, **limits):
        """Return an engine that is not started."""
        sizes = {"max_num_seqs": 8, "max_model_len": 1024, "max_num_batched_tokens": 512, "max_waiting": 256}
        sizes |= {"kv_cache_tokens": 16 * 1024, "prefix_cache": False}
        return LLMEngine(self.spec(dtype), EngineConfig(**(sizes | limits)))

    @contextmanager
    def serving(self, dtype, **limits) -> Iterator[LLMEngine]:
        """Start an engine, and stop it at the end."""
        engine = self.engine(dtype, **limits)
        engine.start()
        try:
            yield engine
        finally:
            engine.stop(0.0)


@pytest.fixture(scope="session")
def device():
    """The device of these tests."""
    return os.environ.get("GPU_TESTS_DEVICE", "cuda")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, device):
    """Both checkpoints by kind."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in SPECS}
    writers = {"text": write_text_checkpoint, "vision": write_vision_checkpoint}
    for kind, write in writers.items():
        more = {"max_position_embeddings": 4096, "initializer_range": RANGES[kind], **SHAPES[kind]}
        write(folders[kind], shard_size=10**9, **more)
    return {kind: Checkpoint(kind, folder, device) for kind, folder in folders.items()}


@pytest.fixture(params=["text", "vision"])
def checkpoint(request, checkpoints):
    """Each of both checkpoints."""
    return checkpoints[request.param]


@pytest.fixture
def exact_float32():
    """Disable TF32, which would round the results that are compared."""
    libraries = (torch.backends.cuda.matmul, torch.backends.cudnn)  # a patch embedding is a convolution
    before = [library.allow_tf32 for library in libraries]
    for library in libraries:
        library.allow_tf32 = False
    yield
    for library, allowed in zip(libraries, before, strict=True):
        library.allow_tf32 = allowed
