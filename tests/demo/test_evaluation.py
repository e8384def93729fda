"""The evaluation itself: it notices training items and missed targets, and its data follow their seeds."""

from itertools import islice

import pytest

from demo import evaluate
from demo.evaluate_images import ImageItem, image_items
from demo.evaluate_text import TextItem, listing_items
from demo.image_data import TRAINING_SEEDS, draw_image
from demo.image_dialogues import Mixture, dialogue_stream
from demo.text_data import training_stream

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def training_keys():
    """Every key that training taught; they take seconds to draw."""
    return evaluate.training_keys()


@pytest.fixture
def taught(training_keys, monkeypatch):
    """The same, also where the evaluation asks for them."""
    monkeypatch.setattr(evaluate, "training_keys", lambda: training_keys)
    return training_keys


def test_no_training_item_is_evaluated(taught):
    """The whole held-out set shares nothing with the recorded training stream."""
    evaluate.check_split(evaluate.text_items(1.0), evaluate.image_items(0.02), taught)


def test_a_training_combination_is_noticed(taught, monkeypatch, capsys):
    """The evaluation stops with its own status and names the item when a training text is among its own."""
    key = next(key for key in sorted(taught) if key.startswith("en|"))
    leaked = TextItem("listing", "Write a listing", key, "", ("",))
    monkeypatch.setattr(evaluate, "text_items", lambda share: [leaked])
    assert evaluate.main(["--share", "0.01"]) == evaluate.EXIT_LEAK
    assert f"training item in the evaluation: text {key!r}" in capsys.readouterr().err


def test_a_training_image_is_noticed(taught, monkeypatch, capsys):
    """The same for an image whose seed training may draw."""
    leaked = ImageItem("trained", (TRAINING_SEEDS - 1,), (), "", "")
    monkeypatch.setattr(evaluate, "image_items", lambda share: [leaked])
    assert evaluate.main(["--share", "0.01"]) == evaluate.EXIT_LEAK
    assert f"image seed {TRAINING_SEEDS - 1}" in capsys.readouterr().err


@pytest.mark.parametrize(("right", "status"), [(100, 0), (90, evaluate.EXIT_MISSED)])
def test_a_missed_target_is_an_error(monkeypatch, capsys, right, status):
    """The exit status distinguishes met targets from missed ones, and a missed one is named."""
    monkeypatch.setattr(evaluate, "evaluate", lambda share: [evaluate.Result("text: listing", right, 100, 98.0)])
    assert evaluate.main([]) == status
    assert ("missed: text: listing" in capsys.readouterr().err) == bool(status)


@pytest.mark.parametrize("share", ["1e-9", "0.001", "0.004"])
def test_every_group_has_items_however_small_the_share(monkeypatch, capsys, share):
    """Each row has a percentage, and the status is that of the targets."""
    monkeypatch.setattr(evaluate, "training_keys", set)
    for module, name in ((evaluate.texts, "TextModel"), (evaluate.images, "ImageModel")):
        monkeypatch.setattr(module, name, Right)
    assert evaluate.main(["--share", share]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("| met |")]
    assert len(rows) == len(evaluate.TEXT_TARGETS) + 1 + len(evaluate.IMAGE_TARGETS) + 3
    assert all("| 100.0 |" in row for row in rows)


class Right:
    """A model whose answers are all right."""

    def judge(self, items, temperature=0.0, seed=0):
        return [True] * len(items)


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "nan", "inf", "", "half"])
def test_what_is_no_share_is_refused(capsys, share):
    """By the command line's parser, before anything is asked."""
    with pytest.raises(SystemExit) as ended:
        evaluate.main([f"--share={share}"])
    assert ended.value.code == 2
    assert f"--share: {share!r}: expected a number above 0 and at most 1" in capsys.readouterr().err


def test_text_follows_its_seed():
    """The same seed gives the same dialogues, another seed gives others."""
    first, again, other = (list(islice(training_stream(seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    assert listing_items("listing", 9, 1) == listing_items("listing", 9, 1)


def test_images_follow_their_seed():
    """The same seed and regime give the same pixels, another seed gives others."""
    for regime in ("trained", "outside", "clean", "grey", "plain", "unclear"):
        first, again, other = (draw_image(seed, regime).image.tobytes() for seed in (7, 7, 8))
        assert first == again
        assert first != other
    questions = [[item.question for item in image_items("trained", 9, seed)] for seed in (1, 1, 2)]
    assert questions[0] == questions[1] != questions[2]


def test_training_draws_training_seeds_alone():
    """No image of a training dialogue has a held-out seed."""
    seeds = [
        int(seed.split(":")[1]) for dialogue in islice(dialogue_stream(3, Mixture()), 200) for seed in dialogue.seeds
    ]
    assert seeds
    assert max(seeds) < TRAINING_SEEDS
