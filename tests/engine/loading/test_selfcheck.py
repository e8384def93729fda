"""The self-check before a model is ready."""

import pytest
import torch

from engine.errors import StartError
from engine.loading.selfcheck import check_logits, fixed_prompts, largest_prompts
from tests.checkpoints import text_spec, vision_spec

LONGEST = 4096


def test_finite_logits_pass(text_model, text_folder):
    """Each fixed prompt runs once."""
    seen = []

    def logits_of(prompt):
        seen.append(prompt)
        return torch.zeros(2, 8)

    check_logits(text_spec(text_folder), text_model.preparer, logits_of, LONGEST)
    assert len(seen) == len(list(fixed_prompts(vision=False))) > 1


def test_a_vision_model_is_checked_with_images_of_several_sizes(vision_model, vision_folder):
    """Text alone would not reveal a vision tower that overflows."""
    grids = []

    def logits_of(prompt):
        if prompt.images is not None:
            grids.append(tuple(prompt.images.grid_thw[0].tolist()))
        return torch.zeros(8)

    check_logits(vision_spec(vision_folder), vision_model.preparer, logits_of, LONGEST)
    assert len(set(grids)) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_overflow_in_half_precision_names_the_setting(vision_model, vision_folder, value):
    """One logit that is not finite stops the start, and the error names the setting to change."""

    def logits_of(prompt):
        return torch.tensor([[0.0, 1.0], [value, 0.0]])

    spec = vision_spec(vision_folder, dtype="float16")
    with pytest.raises(StartError, match="VISION_DTYPE=bfloat16"):
        check_logits(spec, vision_model.preparer, logits_of, LONGEST)


def test_damaged_weights_name_the_folder(text_model, text_folder):
    """In full precision the weights are the likely cause."""
    spec = text_spec(text_folder)
    with pytest.raises(StartError, match="^VIBE_MODEL_DIR: .*damaged") as caught:
        check_logits(spec, text_model.preparer, lambda prompt: torch.full((4,), torch.nan), LONGEST)
    assert str(text_folder) in str(caught.value)


def test_a_model_that_fails_on_its_first_prompt_does_not_start(text_model, text_folder):
    """Any failure becomes one sentence for the operator."""

    def logits_of(prompt):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(StartError, match=r"failed on its first prompt \(RuntimeError\)"):
        check_logits(text_spec(text_folder), text_model.preparer, logits_of, LONGEST)


def test_prompts_longer_than_the_limit_are_skipped(vision_model, vision_folder):
    """No prompt writes past its slot; if MAX_MODEL_LEN is too short for all prompts, the error names it."""
    lengths = []

    def logits_of(prompt):
        lengths.append(len(prompt.token_ids))
        return torch.zeros(8)

    spec = vision_spec(vision_folder)
    check_logits(spec, vision_model.preparer, logits_of, LONGEST)
    middle = sorted(lengths)[1]
    lengths.clear()
    check_logits(spec, vision_model.preparer, logits_of, middle)
    assert lengths
    assert max(lengths) == middle
    with pytest.raises(StartError, match="MAX_MODEL_LEN: 2 tokens"):
        check_logits(spec, vision_model.preparer, logits_of, 2)


def test_the_largest_prompts_have_all_tokens_and_the_largest_image(text_model, vision_model):
    """As far as the context allows."""
    assert [len(one.token_ids) for one in largest_prompts(text_model.preparer, 512, 4096)] == [512]
    assert [len(one.token_ids) for one in largest_prompts(text_model.preparer, 512, 100)] == [99]
    text, image = largest_prompts(vision_model.preparer, 64, LONGEST)
    assert len(text.token_ids) == 64
    patches = int(image.images.grid_thw[0].prod())
    pixels = patches * vision_model.model.config.vision_config.patch_size**2
    assert 0.8 * vision_model.preparer.image_pixels < pixels <= vision_model.preparer.image_pixels
    assert [one.images for one in largest_prompts(vision_model.preparer, 64, len(image.token_ids))] == [None]
