"""The checkpoint folders: sizes, modes, and how the library loads them."""

import json
import stat

import pytest
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from demo import evaluate_images, evaluate_text
from demo.evaluate import MAX_BYTES, checkpoint_bytes
from demo.make_tokenizer import CONTROL_TOKENS, build

FOLDERS = {"qwen3": evaluate_text.FOLDER, "qwen2_5_vl": evaluate_images.FOLDER}
CLASSES = {"qwen3": "Qwen3ForCausalLM", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}


def test_both_fit_in_ten_megabytes():
    """The two folders stay within the limit together."""
    assert checkpoint_bytes() <= MAX_BYTES


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_files_can_be_read_by_everyone(folder):
    """Every file of a checkpoint can be read by the service's own user."""
    assert all(path.stat().st_mode & stat.S_IROTH for path in folder.iterdir())


@pytest.mark.parametrize(("model_type", "folder"), FOLDERS.items(), ids=FOLDERS)
def test_the_configuration_names_the_real_architecture(model_type, folder):
    """Model type and class are the library's own, and the positions reach 2,048."""
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == model_type
    assert config.architectures == [CLASSES[model_type]]
    assert config.get_text_config().max_position_embeddings == 2048


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_weights_are_half_precision_safetensors(folder):
    """The only weights are one safetensors file in fp16."""
    assert [path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".safetensors"}] == [
        "model.safetensors"
    ]
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}


@pytest.mark.parametrize("folder", FOLDERS.values(), ids=FOLDERS)
def test_control_tokens_are_special(folder):
    """Control tokens are single, special and dropped from a reply; both end tokens stop it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert set(CONTROL_TOKENS) <= set(tokenizer.all_special_tokens)
    assert all(len(tokenizer(token).input_ids) == 1 for token in CONTROL_TOKENS)
    assert tokenizer.decode(tokenizer("a<|im_end|>").input_ids, skip_special_tokens=True) == "a"
    settings = GenerationConfig.from_pretrained(folder)
    assert settings.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert settings.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize("text", ["zebra", "зебра", "Гитара", "iPhone 12"])
def test_a_word_has_the_same_pieces_wherever_it_stands(text):
    """A copied word is the same tokens after a space, a comma or nothing."""
    tokenizer = AutoTokenizer.from_pretrained(evaluate_text.FOLDER)
    alone = tokenizer(text).input_ids
    for before in (" ", ",", "("):
        assert tokenizer(before + text).input_ids[-len(alone) :] == alone
    assert tokenizer.decode(tokenizer(f" {text}, 4500 ₽").input_ids) == f" {text}, 4500 ₽"


@pytest.mark.slow
def test_the_tokenizer_can_be_made_again(tmp_path):
    """The script makes the committed tokenizer, byte for byte, and both checkpoints share it with its template."""
    build(tmp_path)
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for folder in FOLDERS.values():
        assert {name: (folder / name).read_bytes() for name in names} == {
            name: (tmp_path / name).read_bytes() for name in names
        }


def test_the_image_settings_are_in_the_library_layout():
    """The processor's file names the classes that the library's automatic loading looks for."""
    settings = json.loads((evaluate_images.FOLDER / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert settings["processor_class"] == "Qwen2_5_VLProcessor"
    assert settings["image_processor_type"] == "Qwen2VLImageProcessor"
