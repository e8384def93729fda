"""The image processor: with and without torchvision, its limits, and folders without one."""

import json

import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from engine.errors import ValidationError
from engine.text.images import decode
from engine.text.processor import ImagePreparer, load_processor, load_tokenizer
from tests.checkpoints import write_tokenizer, write_vision_checkpoint
from tests.trained_tokenizers import sentencepiece_tokenizer


def test_pixels_are_those_of_the_pillow_implementation(vision_folder, make_image):
    """The pixels do not depend on the installed packages."""
    image = make_image(70, 50)
    wanted = Qwen2VLImageProcessorPil.from_pretrained(vision_folder)(images=[decode(image)], return_tensors="pt")
    inputs = ImagePreparer(load_processor(vision_folder), max_tokens=512).prepare((image,))
    assert inputs.pixel_values.equal(wanted["pixel_values"])
    assert inputs.grid_thw.equal(wanted["image_grid_thw"])


def test_the_checkpoints_pixel_limits_hold(vision_folder, make_image):
    """Small images are scaled up and large ones down to the limits of the checkpoint."""
    processor = ImagePreparer(load_processor(vision_folder), max_tokens=512)
    small, large = processor.prepare((make_image(8, 8),)), processor.prepare((make_image(900, 700),))
    assert processor.token_counts(small) == [4]
    assert 8 < processor.token_counts(large)[0] <= 16


def test_images_share_the_token_limit_of_a_prompt(tmp_path, make_image):
    """Four large images are scaled down to the limit together; small ones are not scaled."""
    folder = write_vision_checkpoint(tmp_path, max_pixels=28 * 28 * 10_000)
    processor = ImagePreparer(load_processor(folder), max_tokens=100)
    assert sum(processor.token_counts(processor.prepare((make_image(900, 700),) * 4))) <= 100
    assert processor.token_counts(processor.prepare((make_image(84, 84),) * 4)) == [9] * 4


def test_a_shape_that_the_processor_rejects_is_a_validation_error(vision_folder, make_image):
    """The error of the library becomes a validation error without its text."""

    class Rejecting(Qwen2VLImageProcessorPil):
        def _preprocess(self, *args, **kwargs):
            raise ValueError("absolute aspect ratio must be smaller than 200")

    library = load_processor(vision_folder)
    library.image_processor = Rejecting()
    with pytest.raises(ValidationError, match="shape") as caught:
        ImagePreparer(library, max_tokens=512).prepare((make_image(64, 64),))
    assert caught.value.param == "image"


def test_an_unknown_processor_class_is_an_error(vision_copy):
    """AutoProcessor returns a tokenizer then, which must not be used as a processor."""
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        settings = json.loads((vision_copy / name).read_text())
        (vision_copy / name).write_text(json.dumps(settings | {"processor_class": "NoSuchProcessor"}))
    with pytest.raises(ValueError, match="no image processor"):
        load_processor(vision_copy, torchvision=True)


def test_a_folder_without_an_image_processor_is_an_error(text_folder):
    """A text checkpoint has none."""
    with pytest.raises((OSError, ValueError)):
        load_processor(text_folder, torchvision=False)


def test_a_slow_tokenizer_is_rejected(text_copy):
    """Only a fast tokenizer can be used from many threads; ByT5 has none."""
    for file in text_copy.glob("*token*"):
        file.unlink()
    (text_copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(text_copy)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast"])
def test_a_retrained_tokenizer_is_loaded_as_its_file_defines_it(text_copy, name):
    """For any class that the checkpoint names, text is split and joined as in `tokenizer.json`."""
    own = write_tokenizer(text_copy, tokenizer=sentencepiece_tokenizer())
    settings = json.loads((text_copy / "tokenizer_config.json").read_text())
    (text_copy / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": name}))
    tokenizer = load_tokenizer(text_copy)
    ids = own.encode("Красный диван\n€").ids
    assert tokenizer("Красный диван\n€")["input_ids"] == ids
    assert tokenizer.decode(ids) == "Красный диван\n€"
    assert tokenizer.chat_template
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_of_two_files_gives_the_same_ids(text_folder, text_copy):
    """`vocab.json` and `merges.txt`, as in older checkpoints."""
    (text_copy / "tokenizer.json").unlink()
    old, new = load_tokenizer(text_copy), load_tokenizer(text_folder)
    for text in ("Красный диван, 4500", "<|im_end|>", "<think>"):
        assert old(text)["input_ids"] == new(text)["input_ids"]


def test_an_ordinary_tokenizer_keeps_its_class(text_folder):
    """If file and class agree, the class of transformers is used."""
    assert type(load_tokenizer(text_folder)).__name__ == "Qwen2Tokenizer"
