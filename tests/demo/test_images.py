"""Answers of the image demo: plain phrasings, odd uploads, and a sample of its held-out evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from demo import evaluate, vision_batch
from demo.evaluate_images import image_items, two_image_items
from demo.image_questions import IMAGE_TALK
from tests.demo.samples import at_least, percent

pytestmark = pytest.mark.slow

SEED = 5


def red_square(size=224):
    image = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(image).rectangle((size * 0.25, size * 0.25, size * 0.75, size * 0.75), fill="red")
    return image


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is in the picture?", "A red square."),
        ("Describe the image", "A red square."),
        ("Describe this picture", "A red square."),
        ("What colour is it?", "Red."),
        ("What shape is it?", "A square."),
        ("Что на картинке?", "Красный квадрат."),
        ("Опиши изображение", "Красный квадрат."),
        ("Какая это фигура?", "Квадрат."),
        ("Какого цвета?", "Красный."),
    ],
)
@pytest.mark.parametrize("size", [96, 224, 640])
def test_a_red_square_is_a_red_square(look, question, answer, size):
    """An upload of a red square is named in the language of the question, at any usual size."""
    assert look(question, red_square(size)) == answer


def test_a_missing_image_is_asked_for(look):
    """A question about an image without an image is answered with a request for one."""
    assert look("What is in the picture?") == IMAGE_TALK["en"]["attach"]
    assert look("Что на картинке?") == IMAGE_TALK["ru"]["attach"]


def test_other_questions_are_declined(look):
    """What it cannot do is declined in the language asked."""
    assert look("What is the capital of France?", red_square()) == IMAGE_TALK["en"]["refusal"]
    assert look("Какая столица Франции?", red_square()) == IMAGE_TALK["ru"]["refusal"]


def test_an_empty_question_is_answered_in_english(look):
    """An image without a question gets the English description."""
    assert look("", red_square()) == "A red square."


@pytest.mark.parametrize(
    ("group", "count"),
    [("trained", 100), ("outside", 100), ("clean", 60), ("grey", 40), ("plain", 30), ("unclear", 40)],
)
def test_held_out_images_meet_their_target(image_model, group, count):
    """A sample of held-out images of each kind reaches the target that the evaluation sets."""
    marks = image_model.judge(image_items(group, count, SEED))
    assert percent(marks) >= at_least(evaluate.IMAGE_TARGETS[group], count)


def test_two_images_are_both_named(image_model):
    """Of two images in one message, both are named right, in their order."""
    marks = image_model.judge(two_image_items(40, SEED))
    assert percent(marks) >= at_least(evaluate.IMAGE_TARGETS["two images"], 40)


def test_sampling_keeps_the_shape(image_model):
    """At the service's default temperature an answer is at most two points worse."""
    items = image_items("trained", 60, SEED)
    marks = [mark for seed in (0, 1) for mark in image_model.judge(items, evaluate.TEMPERATURE, seed)]
    assert percent(marks) >= at_least(evaluate.IMAGE_TARGETS["trained"] - evaluate.SAMPLED_SLACK, len(marks))


def test_training_sees_the_pixels_that_serving_sees(image_model):
    """The patches of training are those of the checkpoint's own image processor."""
    for size in ((224, 224), (300, 200), (61, 97), (1000, 700)):
        image = red_square().resize(size)
        ours, grid = vision_batch.patches(image)
        theirs = image_model.processor.image_processor(images=[image], return_tensors="np")
        assert tuple(theirs["image_grid_thw"][0]) == (1, *grid)
        doubled = ours.reshape(-1, 3, 1, 14, 14).repeat(2, 2).reshape(len(ours), -1)
        assert np.abs(doubled - theirs["pixel_values"]).max() < 1e-4


def test_training_sees_the_features_that_serving_sees(image_model):
    """The grouped forward pass of training equals the library's."""
    image = red_square().resize((300, 200))
    tower = image_model.model.model.visual
    theirs = image_model.processor.image_processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        expected = tower(theirs["pixel_values"], theirs["image_grid_thw"]).pooler_output
        [found] = vision_batch.features(tower, [vision_batch.patches(image)])
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
