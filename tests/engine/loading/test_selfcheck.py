"""The check before a model is called ready."""

import pytest
import torch

from engine.errors import StartError
from engine.loading.selfcheck import check_logits, fixed_prompts
from tests.checkpoints import text_spec, vision_spec

LONGEST = 4096


def test_finite_logits_pass(text_model, text_folder):
    """Each fixed prompt is run once."""
    seen = []

    def logits_of(prompt):
        seen.append(prompt)
        return torch.zeros(2, 8)

    check_logits(text_spec(text_folder), text_model.preparer, logits_of, LONGEST)
    assert len(seen) == len(list(fixed_prompts(vision=False))) > 1


def test_a_vision_model_sees_pictures_of_several_sizes(vision_model, vision_folder):
    """Text alone would not show a vision tower that overflows."""
    grids = []

    def logits_of(prompt):
        if prompt.images is not None:
            grids.append(tuple(prompt.images.grid_thw[0].tolist()))
        return torch.zeros(8)

    check_logits(vision_spec(vision_folder), vision_model.preparer, logits_of, LONGEST)
    assert len(set(grids)) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_half_precision_that_overflows_names_the_cure(vision_model, vision_folder, value):
    """One bad logit among good ones stops the start, with the setting that mends it."""

    def logits_of(prompt):
        return torch.tensor([[0.0, 1.0], [value, 0.0]])

    spec = vision_spec(vision_folder, dtype="float16")
    with pytest.raises(StartError, match="VISION_DTYPE=bfloat16"):
        check_logits(spec, vision_model.preparer, logits_of, LONGEST)


def test_damaged_weights_name_the_folder(text_model, text_folder):
    """In full precision it is the weights that are to blame."""
    spec = text_spec(text_folder)
    with pytest.raises(StartError, match="^VIBE_MODEL_DIR: .*damaged") as caught:
        check_logits(spec, text_model.preparer, lambda prompt: torch.full((4,), torch.nan), LONGEST)
    assert str(text_folder) in str(caught.value)


def test_a_model_that_fails_at_once_does_not_start(text_model, text_folder):
    """Any failure on the first prompt is one sentence for the operator."""

    def logits_of(prompt):
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(StartError, match=r"failed on its first prompt \(RuntimeError\)"):
        check_logits(text_spec(text_folder), text_model.preparer, logits_of, LONGEST)


def test_prompts_that_do_not_fit_are_left_out(vision_model, vision_folder):
    """A short MAX_MODEL_LEN is checked by what fits, and none writes past its slot; where nothing fits, it is named."""
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
