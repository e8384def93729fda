"""The image processor: its patches, its limits, and folders without one."""

import json
import random
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from engine.errors import RequestAborted, ValidationError
from engine.text.image_decoder import InProcessDecoder, fitted
from engine.text.image_workers import ImageWorkers
from engine.text.images import decode
from engine.text.processor import ImagePreparer, load_processor, load_tokenizer
from engine.types import EncodedImage
from engine.wanted import Wanted
from tests.checkpoints import write_tokenizer, write_vision_checkpoint
from tests.trained_tokenizers import sentencepiece_tokenizer


def test_pixels_are_those_of_the_pillow_implementation(vision_folder, make_image):
    """The pixels do not depend on the installed packages."""
    image = make_image(70, 50)
    wanted = Qwen2VLImageProcessorPil.from_pretrained(vision_folder)(images=[decode(image)], return_tensors="pt")
    inputs = ImagePreparer(load_processor(vision_folder), max_tokens=512).prepare((image,), Wanted())
    assert inputs.pixel_values().equal(wanted["pixel_values"])
    assert inputs.grid_thw.equal(wanted["image_grid_thw"])


def test_the_checkpoints_pixel_limits_hold(vision_folder, make_image):
    """Small images are scaled up and large ones down to the limits of the checkpoint."""
    processor = ImagePreparer(load_processor(vision_folder), max_tokens=512)
    small, large = (
        processor.prepare((make_image(8, 8),), Wanted()),
        processor.prepare((make_image(900, 700),), Wanted()),
    )
    assert processor.token_counts(small) == [4]
    assert 8 < processor.token_counts(large)[0] <= 16


def test_images_share_the_token_limit_of_a_prompt(tmp_path, make_image):
    """Four large images are scaled down to the limit together; small ones are not scaled."""
    folder = write_vision_checkpoint(tmp_path, max_pixels=28 * 28 * 10_000)
    processor = ImagePreparer(load_processor(folder), max_tokens=100)
    assert sum(processor.token_counts(processor.prepare((make_image(900, 700),) * 4, Wanted()))) <= 100
    assert processor.token_counts(processor.prepare((make_image(84, 84),) * 4, Wanted())) == [9] * 4


SIZES = [
    (1, 1),
    (28, 28),
    (27, 29),
    (56, 14),
    (199, 1),
    (1, 200),
    (13, 640),
    (301, 157),
    (640, 480),
    (1111, 93),
    (900, 901),
]


def noise(mode, size, seed=0):
    """An image of a mode with every value in it."""
    image = Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))
    return image.quantize() if mode == "P" else image.convert(mode)


def encoded(image, kind):
    data = BytesIO()
    image.save(data, kind)
    return EncodedImage(data.getvalue(), *image.size)


@pytest.fixture(scope="module")
def decoders():
    """Both decoders: processes, as in the service, and the caller's thread."""
    workers = ImageWorkers(1)
    workers.start()
    yield {"processes": workers, "thread": InProcessDecoder()}
    workers.stop()


@pytest.mark.parametrize("where", ["processes", "thread"])
@pytest.mark.parametrize("limit", [28 * 28 * 16, 28 * 28 * 1280])
def test_pixels_equal_the_librarys_for_every_size(tmp_path, decoders, where, limit):
    """Bit by bit, scaled up, scaled down and not scaled."""
    folder = write_vision_checkpoint(tmp_path, max_pixels=limit)
    library = Qwen2VLImageProcessorPil.from_pretrained(folder)
    preparer = ImagePreparer(load_processor(folder), 2048, decoders[where])
    for seed, size in enumerate(SIZES):
        image = encoded(noise("RGB", size, seed), "PNG")
        wanted = library(images=[decode(image)], return_tensors="pt")
        inputs = preparer.prepare((image,), Wanted())
        assert inputs.pixel_values().equal(wanted["pixel_values"]), size
        assert inputs.grid_thw.equal(wanted["image_grid_thw"]), size


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *((mode, "JPEG") for mode in ("L", "RGB", "CMYK")),
        *((mode, "WEBP") for mode in ("RGB", "RGBA")),
        ("P", "GIF"),
        ("RGB", "BMP"),
    ],
)
def test_pixels_equal_the_librarys_for_every_mode(vision_folder, decoders, mode, kind):
    """Whatever the file holds, the model gets what the library makes of the decoded image."""
    image = encoded(noise(mode, (123, 77)), kind)
    wanted = Qwen2VLImageProcessorPil.from_pretrained(vision_folder)(images=[decode(image)], return_tensors="pt")
    inputs = ImagePreparer(load_processor(vision_folder), 512, decoders["processes"]).prepare((image,), Wanted())
    assert inputs.pixel_values().equal(wanted["pixel_values"])


@pytest.mark.parametrize(
    "changes",
    [
        {"do_normalize": False},
        {"do_rescale": False},
        {"image_mean": [0.1, 0.5, 0.9], "image_std": [0.3, 0.2, 0.1]},
        {"resample": Image.Resampling.NEAREST},
        {"rescale_factor": 1 / 128},
    ],
)
def test_the_checkpoints_own_processing_counts(vision_copy, changes):
    """Mean, deviation, scale and filter are those of its configuration."""
    file = vision_copy / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    image = encoded(noise("RGB", (150, 90)), "PNG")
    wanted = Qwen2VLImageProcessorPil.from_pretrained(vision_copy)(images=[decode(image)], return_tensors="pt")
    inputs = ImagePreparer(load_processor(vision_copy), max_tokens=512).prepare((image,), Wanted())
    assert inputs.pixel_values().equal(wanted["pixel_values"])


def test_several_images_are_one_input(vision_folder, make_image):
    """Their patches follow each other, each with its own grid and hash."""
    pictures = (make_image(70, 50), make_image(30, 90, 1), make_image(70, 50))
    preparer = ImagePreparer(load_processor(vision_folder), max_tokens=512)
    together, alone = preparer.prepare(pictures, Wanted()), [preparer.prepare((one,), Wanted()) for one in pictures]
    assert together.pixel_values().equal(torch.cat([one.pixel_values() for one in alone]))
    assert together.hashes == tuple(one.hashes[0] for one in alone)
    assert together.hashes[0] == together.hashes[2] != together.hashes[1]


def test_the_same_bytes_in_another_shape_have_another_hash(vision_folder):
    """One colour, wide and tall: the same bytes, and not the same image."""
    preparer = ImagePreparer(load_processor(vision_folder), max_tokens=512)
    hashes = {
        preparer.prepare((encoded(Image.new("RGB", size, "red"), "PNG"),), Wanted()).hashes[0]
        for size in ((112, 56), (56, 112))
    }
    assert len(hashes) == 2


def test_a_waiting_image_takes_a_byte_for_each_value(vision_folder, make_image):
    """The model's input, which is eight times as large, is made only when it is needed."""
    inputs = ImagePreparer(load_processor(vision_folder), max_tokens=512).prepare((make_image(112, 112),), Wanted())
    assert inputs.patches.nbytes == 112 * 112 * 3
    assert inputs.pixel_values().nbytes == 8 * inputs.patches.nbytes


def test_images_are_prepared_without_torch(vision_folder, make_image):
    """An operation of torch would start a team of threads for each thread that prepares one."""
    preparer, used = ImagePreparer(load_processor(vision_folder), max_tokens=512), []

    class Recording(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            used.append(function)
            return function(*args, **(kwargs or {}))

    with Recording():
        inputs = preparer.prepare((make_image(600, 700),), Wanted())
        preparer.token_counts(inputs)
        assert used == []
        inputs.pixel_values()
        assert used != []


def test_a_shape_that_no_model_reads_is_a_validation_error():
    """As the library refuses it, without its text."""
    with pytest.raises(ValidationError, match="shape") as caught:
        fitted(201, 1, 28, 56 * 56, 28 * 28 * 1280)
    assert caught.value.param == "image"


def test_an_image_that_cannot_be_read_is_named(vision_folder, make_image, decoders):
    """By the field that it came in, and by its number among several, for any decoder."""
    good = make_image(70, 50)
    cut = replace(good, data=good.data[:-30], param="messages[0].content[1]")
    narrow = EncodedImage(b"", 201, 1, "messages[2].content[0]")
    for decoder in decoders.values():
        preparer = ImagePreparer(load_processor(vision_folder), 512, decoder)
        refused = {
            (good, cut): "Image 2: The image is damaged or incomplete.",
            (cut, good, good): "Image 1: The image is damaged or incomplete.",
            (cut,): "The image is damaged or incomplete.",
        }
        for images, sentence in refused.items():
            with pytest.raises(ValidationError) as caught:
                preparer.prepare(images, Wanted())
            assert (caught.value.message, caught.value.param) == (sentence, "messages[0].content[1]")
    with pytest.raises(ValidationError, match="Image 3: The image's shape") as caught:
        preparer.header_counts((good, good, narrow))
    assert caught.value.param == "messages[2].content[0]"


def test_a_processor_that_works_otherwise_is_refused(vision_folder):
    """At the start, rather than with wrong pixels later."""

    class Other(Qwen2VLImageProcessorPil):
        def normalize(self, image, *args, **kwargs):
            return super().normalize(image, *args, **kwargs)[:, ::-1]

    library = load_processor(vision_folder)
    library.image_processor = Other.from_pretrained(vision_folder)
    with pytest.raises(ValueError, match="not that of"):
        ImagePreparer(library, max_tokens=512)


def test_what_is_not_wanted_is_not_decoded(vision_folder, make_image):
    """Images are looked at one by one, and not at all once nobody waits for them."""
    wanted, decoded = Wanted(), []

    class Counting(InProcessDecoder):
        def decode(self, job, wanted):
            wanted.cancel() if decoded else None
            decoded.append(super().decode(job, wanted))
            return decoded[-1]

    preparer = ImagePreparer(load_processor(vision_folder), 512, Counting())
    with pytest.raises(RequestAborted):
        preparer.prepare((make_image(64, 64),) * 3, wanted)
    assert len(decoded) == 1


def test_a_folder_without_an_image_processor_is_an_error(text_folder):
    """A text checkpoint has none."""
    with pytest.raises((OSError, ValueError)):
        load_processor(text_folder)


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


def test_a_processor_takes_a_tokenizer_that_is_there(vision_folder):
    """A large one takes a second to build."""
    tokenizer = load_tokenizer(vision_folder)
    assert load_processor(vision_folder, tokenizer).tokenizer is tokenizer
