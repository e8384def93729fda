"""On a GPU: steps in CUDA graphs equal plain `generate()` in float32, and half precision stays finite.

Run with `./deploy.sh test -m gpu` on a machine with an NVIDIA GPU.
"""

import pytest
import torch

from engine.loading.loader import load_model
from engine.model.runner import ModelRunner
from tests.checkpoints import text_spec, vision_spec, write_text_checkpoint, write_vision_checkpoint
from tests.engine.driver import Driver, chat
from tests.engine.oracle import greedy

pytestmark = pytest.mark.gpu

SPECS = {"text": text_spec, "vision": vision_spec}
WRITERS = {"text": write_text_checkpoint, "vision": write_vision_checkpoint}
PROMPTS = ["Привет!", "Write a listing for a used bicycle, red.", "Что на картинке? " * 12, "the quick brown fox"]


@pytest.fixture(scope="module", params=["text", "vision"])
def kind(request, tmp_path_factory):
    """(folder, spec maker) of a tiny random checkpoint of each model."""
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param)), SPECS[request.param]


def on_cuda(kind, dtype):
    folder, spec = kind
    return load_model(spec(folder, device="cuda", dtype=dtype), lambda progress: None)


@pytest.fixture
def exact_float32():
    """Disable TF32, which would round the results that are compared."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("graphs", [False, True])
def test_a_batch_on_the_gpu_equals_one_by_one_generate(kind, graphs, exact_float32):
    """In float32 the batch gives what `generate()` gives alone, with CUDA graphs and without."""
    oracle = on_cuda(kind, "float32")
    expected = [greedy(oracle, chat(text), 12)[0] for text in PROMPTS]
    loaded = on_cuda(kind, "float32")
    driver = Driver(loaded, ModelRunner(loaded.model, 4, 256, prefix_tokens=256, decode_graphs=graphs))
    sequences = [driver.submit(chat(text), 12) for text in PROMPTS]
    driver.run()
    assert [sequence.generation.result().text for sequence in sequences] == expected


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_answers_are_complete(kind, dtype):
    """Every request of a batch in half precision finishes with the number of tokens it requested."""
    loaded = on_cuda(kind, dtype)
    driver = Driver(loaded, ModelRunner(loaded.model, 4, 256, prefix_tokens=256, decode_graphs=True))
    sequences = [driver.submit(chat(text), 12, temperature=0.7, seed=1, ignore_eos=True) for text in PROMPTS]
    driver.run()
    assert [sequence.generation.result().output_tokens for sequence in sequences] == [12] * len(PROMPTS)
    assert driver.counters.nan_logits == 0
