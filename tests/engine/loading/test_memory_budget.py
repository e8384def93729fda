"""The memory budget: its arithmetic, before loading and before allocation."""

import logging
from dataclasses import replace

import pytest

from engine.errors import NoRoom, StartError
from engine.loading.memory_budget import check_budget, check_together, estimate_budget, plan_budget
from engine.text.image_workers import MEMORY_BYTES
from engine.types import EngineConfig
from tests.checkpoints import text_spec, vision_spec

CONFIG = EngineConfig(max_num_seqs=8, max_model_len=512, max_num_batched_tokens=64)
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # keys and values, layers, kv heads, head size, float32


def test_the_sizes_follow_from_the_settings(text_model):
    """A KV cache of slots times length, and a prefix cache of four contexts."""
    budget = plan_budget(text_model.model, CONFIG, 512)
    assert (budget.cache_tokens, budget.prefix_tokens) == (8 * 512, 4 * 512)
    assert budget.cache == 8 * 512 * TOKEN_BYTES
    assert budget.prefix_cache == 4 * 512 * TOKEN_BYTES
    assert budget.weights == sum(p.numel() * 4 for p in text_model.model.parameters())
    assert (
        budget.total
        == budget.weights + budget.to_allocate
        == budget.weights + sum((budget.second_layout, budget.cache, budget.prefix_cache, budget.work))
    )


def test_small_weights_may_take_a_second_layout_on_a_processor(text_model, text_folder):
    """The total includes it, at most as large as the weights; on a GPU, and above a limit, there is none."""
    planned = plan_budget(text_model.model, CONFIG, 512)
    assert planned.second_layout == planned.weights
    assert estimate_budget(replace(text_spec(text_folder), device="cuda"), CONFIG).second_layout == 0
    assert "second layout" in planned.table(0)
    assert "second layout" not in replace(planned, second_layout=0).table(0)


def test_a_disabled_prefix_cache_takes_no_memory(text_model):
    """PREFIX_CACHE=false frees it."""
    budget = plan_budget(text_model.model, replace(CONFIG, prefix_cache=False), 512)
    assert (budget.prefix_cache, budget.prefix_tokens) == (0, 0)


def test_the_estimate_equals_the_plan(text_model, text_folder, vision_model, vision_folder):
    """From the files alone, for both architectures; half precision needs half for all but the logits."""
    for spec, loaded in ((text_spec(text_folder), text_model), (vision_spec(vision_folder), vision_model)):
        estimated, planned = estimate_budget(spec, CONFIG), plan_budget(loaded.model, CONFIG, 512)
        assert estimated == replace(planned, weights=estimated.weights, second_layout=estimated.second_layout)
        assert estimated.weights == pytest.approx(planned.weights, rel=0.01)
        half = estimate_budget(replace(spec, dtype="float16"), CONFIG)
        assert half.weights == pytest.approx(estimated.weights / 2)
        assert half.cache * 2 == estimated.cache


def test_the_checkpoints_own_length_bounds_the_cache(text_folder):
    """A MAX_MODEL_LEN above that of the checkpoint takes no more memory."""
    longer = estimate_budget(text_spec(text_folder), replace(CONFIG, max_model_len=100_000))
    assert longer.cache_tokens == 8 * 1024


def test_the_table_says_whether_a_second_copy_fits(text_model, text_folder, caplog):
    """The table is logged; a model that fits exactly starts."""
    budget = plan_budget(text_model.model, CONFIG, 512)
    with caplog.at_level(logging.INFO):
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate)
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate + budget.total)
    first, second = (record.getMessage() for record in caplog.records)
    assert "does not fit" in first
    assert "reload fits" in second
    for row in ("weights (loaded)", "cache", "4,096 tokens", "prefix cache", "work", "left"):
        assert row in first


def test_a_model_that_does_not_fit_stops_the_start(text_model, text_folder):
    """With one byte too few the error has the sizes and the settings to lower."""
    budget = plan_budget(text_model.model, CONFIG, 512)
    with pytest.raises(StartError) as stopped:
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate - 1)
    for part in ("avibe", "4,096 cache tokens", "PREFIX_CACHE", "MAX_NUM_SEQS", "MAX_MODEL_LEN", "GB are free"):
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
    for part in ("avibe", "avision", "weights in float32", "cache", "together", "MAX_NUM_SEQS", "GB are free"):
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
