"""The default size of the KV caches: the published shapes on cards of every size, and on the CPU."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import StartError
from engine.loading.cache_size import with_cache_sizes
from engine.loading.memory_budget import check_together, estimate_budget
from engine.types import EngineConfig
from tests.checkpoints import text_spec, vision_spec
from tests.sparse_checkpoints import QWEN3_06B, sparse_text, sparse_vision

GIB = 2**30
ON_CUDA = EngineConfig(max_num_seqs=256, max_num_batched_tokens=2048)  # the defaults there
# What torch says that cards have, which is less than what they are sold as.
L4, A6000, H100, H200 = int(22.0 * GIB), int(47.5 * GIB), int(79.1 * GIB), int(139.8 * GIB)
CONTEXT_SHARE = 0.01  # of a card, that the driver and the context of this process have taken before anything is loaded


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The two models that the service is made for, in half precision on one card."""
    folder = tmp_path_factory.mktemp("sparse")
    on_gpu = {"device": "cuda:0", "dtype": "float16"}
    return sparse_text(folder / "vibe", **on_gpu), sparse_vision(folder / "vision", **on_gpu)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Qwen3-0.6B in float32 on the CPU."""
    return sparse_text(tmp_path_factory.mktemp("sparse") / "small", QWEN3_06B)


def sized(models, total, config=ON_CUDA, rest=0, limit=None):
    """Return the budgets with the default sizes, once they are found to fit on an idle device."""
    planned = with_cache_sizes([(spec, config) for spec in models], rest, lambda device: total, lambda: limit)
    check_together(planned, lambda device: int((1 - CONTEXT_SHARE) * total), lambda device: total)
    return [estimate_budget(*one) for one in planned]


def test_the_checkpoints_have_the_published_sizes_and_take_no_room(shapes):
    """8.19 and 8.29 billion parameters; the files are holes."""
    for spec, parameters in zip(shapes, (8_190_735_360, 8_292_166_656), strict=True):
        assert estimate_budget(spec, ON_CUDA).weights == 2 * parameters
        stored = (spec.model_dir / "model.safetensors").stat()
        assert stored.st_size > 2 * parameters
        assert stored.st_blocks * 512 < 1_000_000


@pytest.mark.parametrize(("total", "least"), [(48 * GIB, 14), (A6000, 14), (80 * 10**9, 40), (H100, 50), (H200, 120)])
def test_both_shapes_start_at_defaults(shapes, total, least):
    """Each has as many contexts of 4,096 tokens as the other, at least so many."""
    vibe, vision = sized(shapes, total)
    assert vibe.cache_tokens == vision.cache_tokens >= least * 4096
    assert vibe.total + vision.total < 0.98 * total


@pytest.mark.parametrize("total", [L4, 24 * GIB])
@pytest.mark.parametrize("which", [0, 1])
def test_each_shape_alone_starts_on_a_card_of_24_gib(shapes, which, total):
    """With room for at least four contexts."""
    (budget,) = sized([shapes[which]], total)
    assert budget.contexts >= 4


def test_beside_a_demo_a_shape_starts_on_24_gib(shapes, vision_folder):
    """A small second model takes little."""
    vibe, _ = sized([shapes[0], vision_spec(vision_folder, device="cuda:0", dtype="float16")], 24 * GIB)
    assert vibe.contexts >= 4


def test_both_shapes_do_not_start_on_24_gib(shapes):
    """The sizes of all parts are in the error, and what to lower."""
    with pytest.raises(StartError, match=r"avibe .* avision .* 25\.51 of 25\.77 GB are free: set a lower"):
        sized(shapes, 24 * GIB)


@pytest.mark.parametrize(("quant", "least"), [("int8", 4), ("int4", 8)])
def test_both_quantized_shapes_start_on_24_gib(shapes, quant, least):
    """With room for so many contexts of each model; in half precision they do not fit."""
    vibe, vision = sized([replace(spec, quant=quant) for spec in shapes], 24 * GIB)
    assert vibe.contexts == vision.contexts >= least


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_both_quantized_shapes_start_on_a_processor_with_24_gb(shapes, quant):
    """Beside what the service takes itself; with at least a context each."""
    models = [replace(spec, quant=quant, device="cpu", dtype="bfloat16") for spec in shapes]
    vibe, vision = sized(models, 24 * 10**9, EngineConfig(), rest=2 * GIB)
    assert min(vibe.contexts, vision.contexts) >= 1
    assert vibe.total + vision.total + 2 * GIB < 24 * 10**9


def test_on_a_card_each_models_have_their_own_room(shapes):
    """On two cards of 24 GiB both start, each with what its card leaves."""
    vibe, vision = sized([shapes[0], replace(shapes[1], device="cuda:1")], 24 * GIB)
    assert vibe.contexts >= 4
    assert vision.contexts > vibe.contexts


def test_the_same_card_always_gives_the_same_sizes(shapes):
    """Whatever is free, and whichever is asked for first."""
    planned = [(spec, ON_CUDA) for spec in shapes]
    one, other = (with_cache_sizes(some, total=lambda device: H100) for some in (planned, planned[::-1]))
    assert one == other[::-1]
    assert all(config.kv_cache_tokens % 16 == 0 for _, config in one)


def test_a_context_as_long_as_the_checkpoints_own_may_be_asked_for(shapes):
    """40,960 tokens for the 8B on an 80 GB card; where no context fits, the start stops."""
    vibe, vision = sized(shapes, H100, replace(ON_CUDA, max_model_len=40_960))
    assert vibe.max_model_len == vision.max_model_len == 40_960
    assert vibe.contexts >= 4
    with pytest.raises(StartError, match="MAX_MODEL_LEN"):
        sized(shapes, 40 * GIB, replace(ON_CUDA, max_model_len=40_960))


def test_a_size_that_is_set_is_kept_and_the_other_model_gets_the_rest(shapes):
    """KV_CACHE_TOKENS of one model leaves more, or less, for the other one."""
    planned = [(shapes[0], replace(ON_CUDA, kv_cache_tokens=8192)), (shapes[1], ON_CUDA)]
    vibe, vision = (config.kv_cache_tokens for _, config in with_cache_sizes(planned, total=lambda device: 48 * GIB))
    assert vibe == 8192
    assert vision > 40 * 4096


def test_a_cache_is_never_larger_than_all_sequences_can_use(shapes):
    """On a huge card it holds every sequence at the full length, and four contexts of prefixes."""
    vibe, vision = sized(shapes, 1000 * GIB)
    assert vibe.contexts == vision.contexts == 256 + 4


def test_the_reserve_for_a_reload_halves_the_card(shapes):
    """Two copies with their contexts fit on it."""
    once, _ = sized(shapes, H200)
    half, _ = sized(shapes, H200, replace(ON_CUDA, reload_reserve=True))
    assert 4 < half.contexts < once.contexts / 2


def test_the_documented_sizes_are_those_of_the_code(shapes):
    """Each row of the table in docs/settings.md."""
    text = (Path(__file__).parents[3] / "docs/settings.md").read_text()
    rows = re.findall(
        r"^\| [^|]+ \| (\d+\.\d) \| (Qwen.*|both) \| ([\d,]+) \| ([\d.]+) \| ([\d,]+) \|$", text, re.MULTILINE
    )
    assert len(rows) == 5
    for gib, models, *figures in rows:
        chosen = {"Qwen3-8B": shapes[:1], "Qwen2.5-VL-7B": shapes[1:], "both": shapes}[models]
        for budget in sized(chosen, int(float(gib) * GIB)):
            told = [f"{budget.cache_tokens:,}", f"{budget.contexts:.1f}", f"{budget.typical_requests:,}"]
            assert told == figures


def test_the_documented_sizes_of_quantized_models_are_those_of_the_code(shapes):
    """Each row of the table in docs/weights.md."""
    text = (Path(__file__).parents[3] / "docs/weights.md").read_text()
    row = r"^\| [^|]+ \| (\d+\.\d) \| (int\d) \| ([\d,]+) \| ([\d.]+) \| ([\d,]+) \|$"
    rows = re.findall(row, text, re.MULTILINE)
    assert len(rows) == 6
    for gib, quant, *figures in rows:
        for budget in sized([replace(spec, quant=quant) for spec in shapes], int(float(gib) * GIB)):
            told = [f"{budget.cache_tokens:,}", f"{budget.contexts:.1f}", f"{budget.typical_requests:,}"]
            assert told == figures


def test_on_the_cpu_a_cache_of_the_largest_size_leaves_half_of_the_room(small, text_folder):
    """24 GiB hold at least four times the requests of typical size that slots of 4,096 tokens allowed."""
    config = EngineConfig(max_num_seqs=256)
    (budget,) = sized([small], 24 * GIB, config, rest=4 * GIB)
    slot = 4096 * budget.token_bytes
    slots = (24 * GIB - budget.total + budget.cache - 4 * slot) // slot  # all memory but that of the prefix cache
    assert budget.typical_requests >= 4 * slots
    assert budget.cache == pytest.approx((24 * GIB - 4 * GIB - (budget.total - budget.cache)) / 2, rel=0.01)
    (tiny,) = sized([text_spec(text_folder)], 24 * GIB, config, rest=4 * GIB)
    assert tiny.contexts == 256 + 4


def test_a_control_group_limits_the_cache(small):
    """Its limit is meant for this service, which takes most of the room in it."""
    (whole,) = sized([small], 256 * GIB, rest=4 * GIB)
    (limited,) = sized([small], 256 * GIB, rest=4 * GIB, limit=16 * GIB)
    assert limited.total + 4 * GIB < 16 * GIB
    assert whole.cache > limited.cache > 0.8 * (16 * GIB - 4 * GIB - (limited.total - limited.cache))


def test_a_machine_without_room_gets_one_context(small):
    """Whether that fits is decided by what is free."""
    planned = with_cache_sizes([(small, EngineConfig())], 4 * GIB, lambda device: 4 * GIB, lambda: None)
    assert planned[0][1].kv_cache_tokens == 4096
