"""Checkpoints in every form in which their authors and transformers have written them give the same model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import StartError
from engine.loading.loader import load_model
from engine.types import ChatPrompt
from engine.wanted import Wanted
from tests.checkpoints import text_spec, vision_spec
from tests.engine.conftest import ignore

INDEX = "model.safetensors.index.json"
VISION_TOKENS = {"vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"}


def changed(folder, name, change):
    """Apply a change to a JSON file of a folder."""
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(content) or content))


def logits_of(spec):
    """Return the logits of a fixed prompt by a checkpoint, loaded as the service does it."""
    model = load_model(spec, ignore).model
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 40)[None], use_cache=False).logits


@pytest.fixture(scope="module")
def text_logits(text_folder):
    """What every form of the text checkpoint gives."""
    return logits_of(text_spec(text_folder))


@pytest.fixture(scope="module")
def vision_logits(vision_folder):
    """What every form of the vision checkpoint gives."""
    return logits_of(vision_spec(vision_folder))


# --- config.json ---


def nested(config):
    """As transformers 4.52 to 4.57 write a vision model: the language model in a section of its own, the rest twice."""
    own = VISION_TOKENS | {"architectures", "vision_config", "transformers_version", "model_type", "torch_dtype"}
    text = {name: value for name, value in config.items() if name not in own} | {"model_type": "qwen2_5_vl_text"}
    return config | {"text_config": text | {"layer_types": ["full_attention"] * 2, "rope_scaling": both(config)}}


def both(config):
    """As transformers 4.45 to 4.57 write rope_scaling: the old name of the type and the new one, set to default."""
    scaling = config["rope_scaling"]
    return scaling and scaling | {"type": "default", "rope_type": "default"}


def current(config):
    """As transformers 5 writes any model: `dtype`, `rope_parameters`, and a vision model's language part apart."""
    scaling = dict(config.pop("rope_scaling") or {})
    scaling.pop("type", None)
    rope = scaling | {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    config["dtype"] = config.pop("torch_dtype")
    config["transformers_version"] = "5.23.0"
    if "vision_config" not in config:
        return config | {"rope_parameters": rope, "layer_types": ["full_attention"] * 2, "pad_token_id": None}
    config["vision_config"]["dtype"] = config["dtype"]
    own = VISION_TOKENS | {"architectures", "vision_config", "transformers_version", "model_type", "dtype"}
    text = {name: config.pop(name) for name in set(config) - own} | {"rope_parameters": rope}
    text |= {"model_type": "qwen2_5_vl_text", "layer_types": ["full_attention"] * 2, "dtype": config["dtype"]}
    return config | {"text_config": text, "tie_word_embeddings": False}


def first(config):
    """As the authors wrote it: windows that are not used, and names that later became others."""
    config |= {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 28}
    if "vision_config" in config:
        config["vision_token_id"] = 3
        vision = config["vision_config"]
        vision["in_chans"] = vision.pop("in_channels")
        vision["spatial_patch_size"] = 14
        vision.pop("model_type")
    return config


CONFIGS = {
    "first": first,
    "4.45": lambda config: config | {"rope_scaling": both(config)},
    "current": current,
    "without architectures": lambda config: config.pop("architectures") and config,
    "another architecture of a base": lambda config: config | {"architectures": [*config["architectures"], "Other"]},
}


@pytest.mark.parametrize("form", CONFIGS)
def test_a_text_config_of_any_time(form, text_copy, text_logits):
    """Names and places of its fields have changed."""
    changed(text_copy, "config.json", CONFIGS[form])
    assert torch.equal(logits_of(text_spec(text_copy)), text_logits)


@pytest.mark.parametrize("form", [*CONFIGS, "nested"])
def test_a_vision_config_of_any_time(form, vision_copy, vision_logits):
    """Flat, with the language model twice, or apart."""
    changed(vision_copy, "config.json", (CONFIGS | {"nested": nested})[form])
    assert torch.equal(logits_of(vision_spec(vision_copy)), vision_logits)


# --- weights ---


def rewritten(folder, rename, shards=1):
    """Write the weights anew, in one file or in shards with an index, under the names that `rename` gives."""
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
        path.unlink()
    (folder / INDEX).unlink(missing_ok=True)
    weights = {rename(name): tensor for name, tensor in weights.items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return weights
    files = {name: f"model-{number % shards + 1:05}-of-{shards:05}.safetensors" for number, name in enumerate(weights)}
    for file in set(files.values()):
        own = {name: tensor for name, tensor in weights.items() if files[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return weights


def in_the_language_model(name):
    """Return the name that transformers 5 has in memory, and writes where it does not rename."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def with_a_head_apart(name):
    """Return the name as models with a `language_model.model` inside have it."""
    if name.startswith("visual."):
        return name
    return f"language_model.{name}"


@pytest.mark.parametrize("shards", [1, 3])
def test_text_weights_in_one_file_or_in_many(shards, text_copy, text_logits):
    """With other files beside them, pickles too, which nobody reads."""
    rewritten(text_copy, lambda name: name, shards)
    for name in ("pytorch_model.bin", "model.gguf", "README.md", "LICENSE", ".gitattributes", "training_args.bin"):
        (text_copy / name).write_bytes(b"\x80never read")
    (text_copy / "original").mkdir()
    assert torch.equal(logits_of(text_spec(text_copy)), text_logits)


def test_a_tied_head_may_be_stored_too(text_copy, text_logits):
    """The published small models have the same matrix under both names."""
    weights = rewritten(text_copy, lambda name: name)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, text_copy / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits_of(text_spec(text_copy)), text_logits)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("rename", [lambda name: name, in_the_language_model, with_a_head_apart])
def test_vision_weights_under_the_names_of_any_time(rename, shards, vision_copy, vision_logits):
    """`model.` and `visual.`, or both inside `model.`, or the language model with its own head."""
    rewritten(vision_copy, rename, shards)
    assert torch.equal(logits_of(vision_spec(vision_copy)), vision_logits)


# --- image processor, tokenizer and template ---


NAMES = (
    "Qwen2VLImageProcessor",
    "Qwen2VLImageProcessorFast",
    "Qwen2VLImageProcessorPil",
    "Qwen2_5_VLImageProcessor",
    "Qwen2_5_VLImageProcessorFast",
    "ImageProcessorOfTomorrow",
    None,
)
SIZES = (
    {"min_pixels": 3136, "max_pixels": 12544},
    {"size": {"min_pixels": 3136, "max_pixels": 12544}},
    {"size": {"shortest_edge": 3136, "longest_edge": 12544}},
    {"min_pixels": 3136, "max_pixels": 12544, "size": {"shortest_edge": 56, "longest_edge": 999999}},
    {"min_pixels": None, "max_pixels": None, "size": {"shortest_edge": 3136, "longest_edge": 12544}},
)
# What transformers 4.52 and later write beside them.
FAST = {
    "crop_size": None, "data_format": "channels_first", "default_to_square": True, "device": None,
    "disable_grouping": None, "do_center_crop": None, "do_convert_rgb": True, "do_normalize": True, "do_pad": None,
    "do_rescale": True, "do_resize": True, "input_data_format": None, "pad_size": None, "resample": 3,
    "rescale_factor": 0.00392156862745098, "return_tensors": None,
}  # fmt: skip


@pytest.fixture
def prepare(make_image):
    """Return a function that prepares a prompt with an image by a checkpoint."""
    content = [{"type": "image"}, {"type": "text", "text": "?"}]
    prompt = ChatPrompt(({"role": "user", "content": content},), (make_image(200, 150),))

    def prepare(folder):
        prepared = load_model(vision_spec(folder), ignore).preparer.prepare(prompt, Wanted())
        return prepared.token_ids, prepared.images.pixel_values(), prepared.images.grid_thw

    return prepare


def same(found, expected):
    """Return whether two prepared prompts are equal to the bit."""
    return found[0] == expected[0] and all(map(torch.equal, found[1:], expected[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_the_class_of_the_image_processor_is_not_its_name(name, prepare, vision_folder, vision_copy):
    """The architecture has one; the names in the files are those of the time."""
    for file, other in (("preprocessor_config.json", "Qwen2VLProcessor"), ("tokenizer_config.json", None)):
        changed(vision_copy, file, lambda settings, other=other: settings | {"processor_class": other})
    changed(vision_copy, "preprocessor_config.json", lambda settings: settings | {"image_processor_type": name} | FAST)
    assert same(prepare(vision_copy), prepare(vision_folder))


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("size", SIZES)
def test_the_limits_of_an_image_in_any_form(size, file, prepare, vision_folder, vision_copy):
    """In pixels or as edges, alone or inside `size`; in a file of its own or inside that of the processor."""
    settings = json.loads((vision_copy / "preprocessor_config.json").read_text())
    (vision_copy / "preprocessor_config.json").unlink()
    for name in ("min_pixels", "max_pixels"):
        settings.pop(name)
    settings |= size
    whole = {"image_processor": settings, "processor_class": "Qwen2_5_VLProcessor"}
    (vision_copy / file).write_text(json.dumps(settings if file.startswith("pre") else whole))
    assert same(prepare(vision_copy), prepare(vision_folder))


@pytest.mark.parametrize(
    "place", ["chat_template.json", "chat_template.jinja", "processor_config.json", "tokenizer_config.json", "list"]
)
def test_the_template_of_a_vision_model_is_found_wherever_it_is(place, prepare, vision_folder, vision_copy):
    """In a file of its own, or inside another."""
    template = json.loads((vision_copy / "chat_template.json").read_text())["chat_template"]
    (vision_copy / "chat_template.json").unlink()
    changed(vision_copy, "tokenizer_config.json", lambda settings: settings.pop("chat_template") and None)
    if place.endswith(".jinja"):
        (vision_copy / place).write_text(template)
    elif place == "list":
        named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "x"}]
        changed(vision_copy, "tokenizer_config.json", lambda settings: settings | {"chat_template": named})
    else:
        settings = json.loads((vision_copy / place).read_text()) if (vision_copy / place).exists() else {}
        (vision_copy / place).write_text(json.dumps(settings | {"chat_template": template}))
    assert same(prepare(vision_copy), prepare(vision_folder))


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "list"])
def test_the_template_of_a_text_model_is_found_wherever_it_is(place, text_folder, text_copy):
    """In a file of its own, or inside another, alone or among several."""
    template = json.loads((text_copy / "tokenizer_config.json").read_text())["chat_template"]
    changed(text_copy, "tokenizer_config.json", lambda settings: settings.pop("chat_template") and None)
    if place.endswith(".jinja"):
        (text_copy / place).write_text(template)
    else:
        named = [{"name": "default", "template": template}, {"name": "tool_use", "template": "x"}]
        value = named if place == "list" else template
        changed(text_copy, "tokenizer_config.json", lambda settings: settings | {"chat_template": value})
    prompt = ChatPrompt(({"role": "user", "content": "Hi"},))
    found, expected = (
        load_model(text_spec(each), ignore).preparer.prepare(prompt) for each in (text_copy, text_folder)
    )
    assert found.token_ids == expected.token_ids


@pytest.mark.parametrize(
    "name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "TokenizersBackend", "TokenizerOfTomorrow", None]
)
def test_the_class_of_the_tokenizer_is_not_its_name(name, text_folder, text_copy):
    """`tokenizer.json` defines it, with whatever beside it."""
    changed(text_copy, "tokenizer_config.json", lambda settings: settings | {"tokenizer_class": name})
    (text_copy / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    (text_copy / "added_tokens.json").write_text("{}")
    prompt = ChatPrompt(({"role": "user", "content": "Красный диван, 4500"},))
    found, expected = (load_model(text_spec(each), ignore) for each in (text_copy, text_folder))
    assert found.preparer.prepare(prompt).token_ids == expected.preparer.prepare(prompt).token_ids
    assert found.eos_token_ids == expected.eos_token_ids


# --- refusals ---


def refusal(spec):
    """Return the sentence with which a checkpoint is refused."""
    with pytest.raises(StartError) as refused:
        load_model(spec, ignore)
    return str(refused.value)


def test_shards_without_their_index_are_refused_by_its_name(text_copy):
    """The weights are there, and what is missing is said."""
    (text_copy / INDEX).unlink()
    assert f"lacks {INDEX}, which names its shards: copy it" in refusal(text_spec(text_copy))


@pytest.mark.parametrize("content", ["{", '{"patch_size": "wide"}', '{"size": 5}', "[]"])
def test_a_broken_image_processor_is_refused_with_its_file(content, vision_copy):
    """Whatever the library makes of it."""
    (vision_copy / "preprocessor_config.json").write_text(content)
    found = refusal(vision_spec(vision_copy))
    assert "the image processor in" in found
    assert "preprocessor_config.json" in found or "settings must be" in found


def test_another_model_is_refused_by_both_names(text_copy):
    """A model type that is not ours is not taken for it."""
    changed(text_copy, "config.json", lambda config: config.pop("architectures") and config | {"model_type": "qwen2"})
    assert "architecture qwen2, but Qwen3ForCausalLM is needed" in refusal(text_spec(text_copy))
    changed(text_copy, "config.json", lambda config: config | {"architectures": ["Qwen3MoeForCausalLM"]})
    assert "architecture Qwen3MoeForCausalLM, but Qwen3ForCausalLM" in refusal(text_spec(text_copy))


def test_quantized_weights_are_refused_with_what_to_take_instead(text_copy):
    """In whatever way they are quantized."""
    changed(text_copy, "config.json", lambda config: config | {"quantization_config": {"quant_method": "awq"}})
    assert "take those it was made from" in refusal(text_spec(text_copy))
