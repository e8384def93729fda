"""The picture processor: with and without torchvision, its limits, and folders that have none."""

import json

import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from engine.errors import ValidationError
from engine.text.images import decode
from engine.text.processor import PictureProcessor, load_processor, load_tokenizer
from tests.checkpoints import write_tokenizer, write_vision_checkpoint
from tests.trained_tokenizers import sentencepiece_tokenizer


def test_pixels_are_those_of_the_pillow_implementation(vision_folder, picture):
    """Whatever is installed, a picture becomes the same numbers."""
    image = picture(70, 50)
    wanted = Qwen2VLImageProcessorPil.from_pretrained(vision_folder)(images=[decode(image)], return_tensors="pt")
    inputs = PictureProcessor(load_processor(vision_folder), max_tokens=512).prepare((image,))
    assert inputs.pixel_values.equal(wanted["pixel_values"])
    assert inputs.grid_thw.equal(wanted["image_grid_thw"])


def test_the_checkpoints_pixel_limits_hold(vision_folder, picture):
    """Small pictures are scaled up and large ones down to the checkpoint's own limits."""
    processor = PictureProcessor(load_processor(vision_folder), max_tokens=512)
    small, large = processor.prepare((picture(8, 8),)), processor.prepare((picture(900, 700),))
    assert processor.token_counts(small) == [4]
    assert 8 < processor.token_counts(large)[0] <= 16


def test_pictures_share_the_tokens_there_are(tmp_path, picture):
    """Four large pictures are scaled down together to what a prompt may take, a small one stays as it is."""
    folder = write_vision_checkpoint(tmp_path, max_pixels=28 * 28 * 10_000)
    processor = PictureProcessor(load_processor(folder), max_tokens=100)
    assert sum(processor.token_counts(processor.prepare((picture(900, 700),) * 4))) <= 100
    assert processor.token_counts(processor.prepare((picture(84, 84),) * 4)) == [9] * 4


def test_a_shape_the_processor_refuses_is_the_clients_mistake(vision_folder, picture):
    """What the library refuses with an error of its own becomes a validation error without its text."""

    class Refusing(Qwen2VLImageProcessorPil):
        def _preprocess(self, *args, **kwargs):
            raise ValueError("absolute aspect ratio must be smaller than 200")

    library = load_processor(vision_folder)
    library.image_processor = Refusing()
    with pytest.raises(ValidationError, match="shape") as caught:
        PictureProcessor(library, max_tokens=512).prepare((picture(64, 64),))
    assert caught.value.param == "image"


def test_a_processor_class_the_library_does_not_know_is_noticed(vision_copy):
    """The ordinary path hands back a bare tokenizer then, which must not be taken for a processor."""
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        settings = json.loads((vision_copy / name).read_text())
        (vision_copy / name).write_text(json.dumps(settings | {"processor_class": "NoSuchProcessor"}))
    with pytest.raises(ValueError, match="no picture processor"):
        load_processor(vision_copy, torchvision=True)


def test_a_folder_without_a_picture_processor_is_an_error(text_folder):
    """A text checkpoint has none."""
    with pytest.raises((OSError, ValueError)):
        load_processor(text_folder, torchvision=False)


def test_a_tokenizer_of_python_alone_is_refused(text_copy):
    """Only a fast tokenizer can be used from many threads; a byte-level ByT5 one is not."""
    for file in text_copy.glob("*token*"):
        file.unlink()
    (text_copy / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(text_copy)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast"])
def test_a_retrained_tokenizer_is_taken_as_its_file_says(text_copy, name):
    """Whatever class the checkpoint names, text is cut and joined as `tokenizer.json` says, template included."""
    own = write_tokenizer(text_copy, tokenizer=sentencepiece_tokenizer())
    settings = json.loads((text_copy / "tokenizer_config.json").read_text())
    (text_copy / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": name}))
    tokenizer = load_tokenizer(text_copy)
    ids = own.encode("Красный диван\n€").ids
    assert tokenizer("Красный диван\n€")["input_ids"] == ids
    assert tokenizer.decode(ids) == "Красный диван\n€"
    assert tokenizer.chat_template
    assert tokenizer.eos_token == "<|im_end|>"


def test_a_tokenizer_of_two_files_cuts_the_same(text_folder, text_copy):
    """Vocabulary and merges, as older checkpoints have them, give the same ids."""
    (text_copy / "tokenizer.json").unlink()
    old, new = load_tokenizer(text_copy), load_tokenizer(text_folder)
    for text in ("Красный диван, 4500", "<|im_end|>", "<think>"):
        assert old(text)["input_ids"] == new(text)["input_ids"]


def test_an_ordinary_tokenizer_stays_the_librarys_own(text_folder):
    """Where file and class agree, there is nothing to correct."""
    assert type(load_tokenizer(text_folder)).__name__ == "Qwen2Tokenizer"
