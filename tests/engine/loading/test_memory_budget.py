"""The memory budget: its arithmetic, before loading and before allocation."""

import json
import logging
from dataclasses import replace

import pytest

from engine.errors import NoRoom, StartError
from engine.loading.memory_budget import check_budget, check_together, estimate_budget, log_use, plan_budget
from engine.text.image_workers import MEMORY_BYTES
from engine.types import EngineConfig
from tests.checkpoints import text_spec, vision_spec

CONFIG = EngineConfig(max_num_seqs=8, max_model_len=512, max_num_batched_tokens=64)
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # keys and values, layers, kv heads, head size, float32


def test_the_sizes_follow_from_the_settings(text_model):
    """A KV cache of so many tokens and a block, and the step's memory by line."""
    budget = plan_budget(text_model.model, replace(CONFIG, kv_cache_tokens=4096), 512)
    assert (budget.cache_tokens, budget.contexts, budget.typical_requests) == (4096, 8, 4096 // 320)
    assert budget.cache == (4096 + 16) * TOKEN_BYTES
    assert budget.weights == sum(p.numel() * 4 for p in text_model.model.parameters())
    assert budget.total == budget.weights + budget.to_allocate
    assert budget.to_allocate == budget.second_layout + budget.cache + budget.work + budget.sampling
    assert budget.sampling == 4 * 8 * text_model.vocab_size * 4


def test_a_size_that_is_left_open_holds_every_sequence_and_some_prefixes(text_model):
    """The largest that all sequences can use, in whole blocks, and four contexts of cached prefixes."""
    assert plan_budget(text_model.model, CONFIG, 512).cache_tokens == (8 + 4) * 512
    assert plan_budget(text_model.model, replace(CONFIG, prefix_cache=False), 500).cache_tokens == 8 * 512


def test_a_gpu_has_lines_of_its_own(text_folder, vision_folder):
    """Workspaces and graphs, which CUDA_GRAPHS=false spares; the tower's images, for Avision alone."""
    on_gpu = estimate_budget(replace(text_spec(text_folder), device="cuda:1"), CONFIG)
    assert (on_gpu.workspaces, on_gpu.graphs) == (320 * 2**20, 512 * 2**20)
    assert (
        estimate_budget(replace(text_spec(text_folder), device="cuda"), replace(CONFIG, cuda_graphs=False)).graphs == 0
    )
    seeing = estimate_budget(vision_spec(vision_folder), CONFIG)
    assert (seeing.workspaces, seeing.graphs, on_gpu.vision) == (0, 0, 0)
    assert seeing.vision > 0


def test_a_step_of_more_tokens_needs_more_memory(vision_folder):
    """Work grows with the budget of a step, images once it exceeds one of the largest size; logits with the rows."""
    small, large, largest = (
        estimate_budget(vision_spec(vision_folder), replace(CONFIG, max_num_batched_tokens=tokens))
        for tokens in (64, 128, 512)
    )
    assert large.work == 2 * small.work
    assert large.vision == small.vision == largest.vision / 2
    assert large.sampling == small.sampling


def test_small_weights_may_take_a_second_layout_on_a_processor(text_model, text_folder):
    """The total includes it, at most as large as the weights; on a GPU, and above a limit, there is none."""
    planned = plan_budget(text_model.model, CONFIG, 512)
    assert planned.second_layout == planned.weights
    assert estimate_budget(replace(text_spec(text_folder), device="cuda"), CONFIG).second_layout == 0
    assert "second layout" in planned.table(0)
    assert "second layout" not in replace(planned, second_layout=0).table(0)


def test_the_estimate_equals_the_plan(text_model, text_folder, vision_model, vision_folder):
    """From the files alone, for both architectures; half precision needs half for all but the logits on a GPU."""
    for spec, loaded in ((text_spec(text_folder), text_model), (vision_spec(vision_folder), vision_model)):
        estimated, planned = estimate_budget(spec, CONFIG), plan_budget(loaded.model, CONFIG, 512)
        assert estimated == replace(planned, weights=estimated.weights, second_layout=estimated.second_layout)
        assert estimated.weights == pytest.approx(planned.weights, rel=0.01)
        half = estimate_budget(replace(spec, dtype="float16", device="cuda"), CONFIG)
        assert half.weights == pytest.approx(estimated.weights / 2)
        assert half.cache * 2 == estimated.cache


def test_fewer_bits_on_a_processor_save_weights_and_no_activations(text_model, text_folder, vision_folder):
    """Keys, values and activations stay float32 there; there is no second layout, and the tower is not quantized."""
    full = estimate_budget(text_spec(text_folder), CONFIG)
    half = estimate_budget(text_spec(text_folder, dtype="bfloat16"), CONFIG)
    assert half == replace(full, weights=half.weights, second_layout=0)
    assert half.weights == pytest.approx(full.weights / 2)
    for quant, bits in (("int8", 8.5), ("int4", 4.5)):
        estimated = estimate_budget(text_spec(text_folder, dtype="bfloat16", quant=quant), CONFIG)
        assert estimated == replace(half, weights=estimated.weights)
        assert estimated.weights == pytest.approx(full.weights * bits / 32, rel=0.05)
        planned = plan_budget(text_model.model, CONFIG, 512, text_spec(text_folder, dtype="bfloat16", quant=quant))
        assert estimated.weights == pytest.approx(planned.weights, rel=0.02)
        assert (planned.to_quantize, planned.total) == (planned.weights, planned.to_allocate)
        seeing = estimate_budget(vision_spec(vision_folder, quant=quant), CONFIG)
        assert seeing.weights > estimate_budget(vision_spec(vision_folder), CONFIG).weights * bits / 32 * 1.2


def test_a_format_that_a_device_lacks_is_told_before_anything_is_loaded(text_folder):
    """With the setting, and what the device can do."""
    spec = text_spec(text_folder, quant="fp8", quant_setting="VIBE_QUANT")
    with pytest.raises(StartError, match="VIBE_QUANT=fp8: expected none, int8 or int4 on cpu: fp8 needs"):
        check_together([(spec, CONFIG)], lambda device: 2**60, lambda device: 2**60)


@pytest.mark.parametrize(("quant", "bits"), [("int8", 8 + 16 / 64), ("int4", 4.5), ("fp8", 8 + 32 / 64)])
def test_fewer_bits_on_a_gpu_save_weights_and_scratch_memory(quant, bits, vision_folder, vision_model):
    """Activations stay as they are, and so does the tower; what cuBLAS and torch's sampler take is not needed."""
    spec = vision_spec(vision_folder, device="cuda", dtype="float16")
    full, fewer = estimate_budget(spec, CONFIG), estimate_budget(replace(spec, quant=quant), CONFIG)
    sizes = {name: getattr(fewer, name) for name in ("weights", "sampling", "workspaces", "work")}
    assert fewer == replace(full, **sizes)
    assert (fewer.workspaces < full.workspaces) is (quant != "fp8")
    assert (fewer.work > full.work) is (quant == "fp8")
    tower = sum(2 * p.numel() for name, p in vision_model.model.named_parameters() if "visual." in name)
    assert fewer.weights == pytest.approx((full.weights - tower) * bits / 16 + tower, rel=0.02)
    planned = plan_budget(vision_model.model, CONFIG, 512, replace(spec, quant=quant))
    assert planned == replace(fewer, weights=planned.weights, to_quantize=planned.weights)
    assert planned.weights == pytest.approx(fewer.weights, rel=0.02)


def test_the_checkpoints_own_length_bounds_the_cache(text_folder):
    """A MAX_MODEL_LEN above that of the checkpoint takes no more memory."""
    longer = estimate_budget(text_spec(text_folder), replace(CONFIG, max_model_len=100_000))
    assert (longer.cache_tokens, longer.max_model_len) == (12 * 1024, 1024)


def test_the_table_says_whether_a_second_copy_fits(text_model, text_folder, caplog):
    """The table is logged row by row; a model that fits exactly starts."""
    budget = plan_budget(text_model.model, CONFIG, 512)
    with caplog.at_level(logging.INFO):
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate)
        at = len(caplog.records)
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate + budget.total)
    assert not [line for line in caplog.messages if "\n" in line]
    first, second = "\n".join(caplog.messages[:at]), "\n".join(caplog.messages[at:])
    assert "does not fit" in first
    assert "reload fits" in second
    room = "6,144 tokens: 12.0 contexts of 512, or 19 requests of 310"
    for row in ("weights (loaded)", "KV cache", room, "work", "sampling", "left"):
        assert row in first


def test_a_model_that_does_not_fit_stops_the_start(text_model, text_folder):
    """With one byte too few the error has the sizes and the settings to lower."""
    budget = plan_budget(text_model.model, CONFIG, 512)
    with pytest.raises(StartError) as stopped:
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate - 1)
    for part in ("avibe", "KV cache of 6,144 tokens", "lower KV_CACHE_TOKENS", "MAX_MODEL_LEN", "GB are free"):
        assert part in str(stopped.value)
    assert "RELOAD_RESERVE" not in str(stopped.value)


def test_the_reserve_for_a_reload_is_kept_free(text_model, text_folder):
    """With RELOAD_RESERVE a whole second copy must fit beside the first."""
    budget, spec = plan_budget(text_model.model, CONFIG, 512), text_spec(text_folder)
    config = replace(CONFIG, reload_reserve=True)
    check_budget(spec, config, budget, lambda device: budget.to_allocate + budget.total)
    with pytest.raises(StartError, match="RELOAD_RESERVE keeps"):
        check_budget(spec, config, budget, lambda device: budget.to_allocate + budget.total - 1)


@pytest.mark.parametrize("reserve", [False, True])
def test_both_models_must_fit_together_before_either_is_loaded(text_folder, vision_folder, reserve):
    """The sum of both, twice with RELOAD_RESERVE, against the free memory; the message has every term."""
    config = replace(CONFIG, reload_reserve=reserve)
    models = [(text_spec(text_folder), config), (vision_spec(vision_folder), config)]
    needed = sum(estimate_budget(spec, config).total for spec, _ in models) * (2 if reserve else 1)
    check_together(models, lambda device: needed)
    with pytest.raises(StartError) as stopped:
        check_together(models, lambda device: needed - 1)
    message = str(stopped.value)
    for part in ("avibe", "avision", "weights in float32", "cache", "together", "KV_CACHE_TOKENS", "GB are free"):
        assert part in message
    assert ("RELOAD_RESERVE" in message) is reserve


def test_models_that_would_fit_without_other_processes_raise_no_room(text_folder):
    """NoRoom means that freeing memory elsewhere would help; models larger than the device raise StartError."""
    models = [(text_spec(text_folder), CONFIG)]
    needed = estimate_budget(*models[0]).total
    with pytest.raises(NoRoom):
        check_together(models, lambda device: needed - 1, lambda device: needed)
    with pytest.raises(StartError) as hopeless:
        check_together(models, lambda device: needed - 1, lambda device: needed - 1)
    assert not isinstance(hopeless.value, NoRoom)


def test_images_have_a_bound_in_the_hosts_memory(vision_model, text_model):
    """Of each admitted request as many as half of its context holds, with a byte for each value; and their decoders."""
    config = replace(CONFIG, max_waiting=16, image_workers=3)
    budget = plan_budget(vision_model.model, config, 512)
    assert budget.images == (8 + 16) * 256 * 3 * 28 * 28
    assert budget.decoders == 3 * MEMORY_BYTES
    assert plan_budget(vision_model.model, replace(config, max_waiting=0), 512).to_allocate == budget.to_allocate
    for row in ("images", "image decoders", "at most, in the host's memory"):
        assert row in budget.table(0)
        assert row not in plan_budget(text_model.model, config, 512).table(0)


def test_a_cache_that_holds_no_context_stops_the_start(text_model, text_folder):
    """Both numbers and both settings are named, before anything is loaded and after."""
    config = replace(CONFIG, kv_cache_tokens=496)
    spec, budget = text_spec(text_folder), plan_budget(text_model.model, config, 512)
    with pytest.raises(StartError, match=r"496 tokens \(KV_CACHE_TOKENS\), .* 512 \(MAX_MODEL_LEN\)"):
        check_together([(spec, config)], lambda device: 10**12)
    with pytest.raises(StartError, match="raise one or lower the other"):
        check_budget(spec, config, budget, lambda device: 10**12)


def test_each_device_is_checked_for_its_own_models(text_folder, vision_folder, caplog):
    """Two cards hold one model each, a line in the log for each, and the error names the one that is too small."""
    models = [(text_spec(text_folder, device="cuda:0"), CONFIG), (vision_spec(vision_folder, device="cuda:1"), CONFIG)]
    needed = {spec.device: estimate_budget(spec, CONFIG).total for spec, _ in models}
    with caplog.at_level(logging.INFO):
        check_together(models, needed.__getitem__, needed.__getitem__)
    assert [message.split(":")[1] for message in caplog.messages] == ["0 in GB", "1 in GB"]
    small = needed | {"cuda:1": needed["cuda:1"] - 1}
    with pytest.raises(NoRoom, match="do not fit on cuda:1 together: avision"):
        check_together(models, small.__getitem__, needed.__getitem__)


def test_what_a_start_has_reserved_is_told_beside_the_budget(text_model, text_folder, caplog):
    """On a GPU, where it shows whether the estimates hold; on the CPU nothing is reserved."""
    budget, spec = plan_budget(text_model.model, CONFIG, 512), text_spec(text_folder, device="cuda:1")
    with caplog.at_level(logging.INFO):
        log_use(spec, replace(budget, weights=4_000_000_000), 3_000_000_000)
        log_use(spec, budget, 0)
    (message,) = caplog.messages
    assert message.startswith("avibe: 3.00 GB of cuda:1 are reserved after the start, the budget has 4.0")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "64"},
        {"max_position_embeddings": None},
        {"layer_types": ["full_attention"]},
        {"model_type": "qwen9"},
        {"rope_scaling": {"rope_type": "yarn"}},
    ],
)
def test_a_config_that_no_model_can_be_made_from_is_a_sentence(text_copy, changes):
    """With the setting and the folder; the library raises many types."""
    config = text_copy / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(StartError, match=f"^VIBE_MODEL_DIR: the folder {text_copy} has a config.json that no model"):
        estimate_budget(text_spec(text_copy), CONFIG)
