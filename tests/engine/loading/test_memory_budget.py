"""The memory budget: the arithmetic an operator is told, before anything is loaded and before anything is allocated."""

import logging
from dataclasses import replace

import pytest

from engine.errors import NoRoom, StartError
from engine.loading.memory_budget import check_budget, check_together, foresee_budget, plan_budget
from engine.types import EngineConfig
from tests.checkpoints import text_spec, vision_spec

CONFIG = EngineConfig(max_num_seqs=8, max_model_len=512, max_num_batched_tokens=64)
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # keys and values, layers, kv heads, head size, float32


def test_the_cache_is_a_stated_number_of_tokens(text_model):
    """Slots times length, and four contexts of prefix cache; every byte follows from the settings."""
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
    """It is in the sum, at most as large as the weights; on a GPU, and above a limit, there is none."""
    planned = plan_budget(text_model.model, CONFIG, 512)
    assert planned.second_layout == planned.weights
    assert foresee_budget(replace(text_spec(text_folder), device="cuda"), CONFIG).second_layout == 0
    assert "second layout" in planned.table(0)
    assert "second layout" not in replace(planned, second_layout=0).table(0)


def test_without_kept_beginnings_they_take_nothing(text_model):
    """PREFIX_CACHE=false gives the room back."""
    budget = plan_budget(text_model.model, replace(CONFIG, prefix_cache=False), 512)
    assert (budget.prefix_cache, budget.prefix_tokens) == (0, 0)


def test_what_is_foreseen_is_what_is_planned(text_model, text_folder, vision_model, vision_folder):
    """From the files alone, for both architectures; half precision halves all but the logits."""
    for spec, loaded in ((text_spec(text_folder), text_model), (vision_spec(vision_folder), vision_model)):
        foreseen, planned = foresee_budget(spec, CONFIG), plan_budget(loaded.model, CONFIG, 512)
        assert foreseen == replace(planned, weights=foreseen.weights, second_layout=foreseen.second_layout)
        assert foreseen.weights == pytest.approx(planned.weights, rel=0.01)
        half = foresee_budget(replace(spec, dtype="float16"), CONFIG)
        assert half.weights == pytest.approx(foreseen.weights / 2)
        assert half.cache * 2 == foreseen.cache


def test_the_checkpoints_own_length_bounds_the_cache(text_folder):
    """MAX_MODEL_LEN over the checkpoint's own takes no more room."""
    longer = foresee_budget(text_spec(text_folder), replace(CONFIG, max_model_len=100_000))
    assert longer.cache_tokens == 8 * 1024


def test_the_table_says_whether_a_second_copy_fits(text_model, text_folder, caplog):
    """It is logged with the arithmetic; what fits exactly starts."""
    budget = plan_budget(text_model.model, CONFIG, 512)
    with caplog.at_level(logging.INFO):
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate)
        check_budget(text_spec(text_folder), CONFIG, budget, lambda device: budget.to_allocate + budget.total)
    first, second = (record.getMessage() for record in caplog.records)
    assert "does not fit" in first
    assert "reload fits" in second
    for row in ("weights (loaded)", "cache", "4,096 tokens", "prefix cache", "work", "left"):
        assert row in first


def test_what_does_not_fit_stops_the_start_with_the_arithmetic(text_model, text_folder):
    """One byte short is told with the sum, and with the settings to lower."""
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
    """The sum of both, twice with RELOAD_RESERVE, against what is free; the message has every term."""
    config = replace(CONFIG, reload_reserve=reserve)
    models = [(text_spec(text_folder), config), (vision_spec(vision_folder), config)]
    needed = sum(foresee_budget(spec, config).total for spec, _ in models) * (2 if reserve else 1)
    check_together(models, lambda device: needed)
    with pytest.raises(StartError) as stopped:
        check_together(models, lambda device: needed - 1)
    message = str(stopped.value)
    for part in ("avibe", "avision", "weights in float32", "cache", "together", "MAX_NUM_SEQS", "GB are free"):
        assert part in message
    assert ("RELOAD_RESERVE" in message) is reserve


def test_models_that_would_fit_if_others_left_are_told_apart(text_folder):
    """NoRoom says that the end of another process would help, which is not so for models larger than the device."""
    models = [(text_spec(text_folder), CONFIG)]
    needed = foresee_budget(*models[0]).total
    with pytest.raises(NoRoom):
        check_together(models, lambda device: needed - 1, lambda device: needed)
    with pytest.raises(StartError) as hopeless:
        check_together(models, lambda device: needed - 1, lambda device: needed - 1)
    assert not isinstance(hopeless.value, NoRoom)
