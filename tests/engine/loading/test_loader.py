"""Loading: both architectures, every folder layout, what is read from the files, and every failure."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging as library_logging

from engine.errors import StartError
from engine.loading import loader
from engine.loading.loader import load_model
from engine.types import ChatPrompt
from tests.checkpoints import (
    as_hub_cache,
    text_spec,
    vision_spec,
    write_text_checkpoint,
    write_tokenizer,
    write_vision_checkpoint,
)

INDEX = "model.safetensors.index.json"
GREETING = ChatPrompt(({"role": "user", "content": "Привет"},))


def ignore(progress):
    """Take a progress report and do nothing with it."""


def change(path, **changes):
    """Change some keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def next_token(model):
    """Return the greedy first token for a fixed prompt."""
    ids = torch.tensor([model.preparer.prepare(GREETING).token_ids])
    return int(model.model(input_ids=ids).logits[0, -1].argmax())


def rewrite(folder, tensor, new):
    """Replace one tensor of a checkpoint by the result of `new`."""
    name = json.loads((folder / INDEX).read_text())["weight_map"][tensor]
    tensors = load_file(folder / name)
    tensors[tensor] = new(tensors[tensor])
    save_file(tensors, folder / name, {"format": "pt"})


# --- what is loaded ---


def test_the_text_model_equals_the_saved_one(text_model, text_folder):
    """Every tensor of every shard is loaded, in evaluation mode, without gradients."""
    state = text_model.model.state_dict()
    for shard in text_folder.glob("*.safetensors"):
        for name, tensor in load_file(shard).items():
            assert state[name].equal(tensor)
    assert not text_model.model.training
    assert not any(parameter.requires_grad for parameter in text_model.model.parameters())
    assert type(text_model.model).__name__ == "Qwen3ForCausalLM"
    assert text_model.model.config._attn_implementation == "sdpa"


def test_the_vision_model_equals_the_saved_one(vision_model, vision_folder):
    """The published checkpoints have the old tensor names; all of them are mapped to the new ones."""
    saved = {name: tensor for shard in vision_folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    assert "visual.patch_embed.proj.weight" in saved
    state = vision_model.model.state_dict()
    assert len(state) == len(saved)
    assert state["model.visual.patch_embed.proj.weight"].equal(saved["visual.patch_embed.proj.weight"])
    assert type(vision_model.model).__name__ == "Qwen2_5_VLForConditionalGeneration"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_weights_have_the_configured_dtype(text_folder, dtype):
    """The setting decides, not the saved dtype."""
    model = load_model(text_spec(text_folder, dtype=dtype), ignore).model
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_a_hub_cache_and_a_separate_tokenizer_folder(text_model, tmp_path):
    """Weights and tokenizer in two folders, each a Hugging Face cache."""
    write_text_checkpoint(tmp_path / "plain", tmp_path / "words")
    as_hub_cache(tmp_path / "plain", tmp_path / "models")
    as_hub_cache(tmp_path / "words", tmp_path / "tokenizers")
    shutil.rmtree(tmp_path / "plain")
    shutil.rmtree(tmp_path / "words")
    model = load_model(text_spec(tmp_path / "models", tmp_path / "tokenizers"), ignore)
    assert next_token(model) == next_token(text_model)


def test_a_vision_model_from_a_hub_cache(vision_model, vision_folder, tmp_path):
    """Its processor comes from the same snapshot."""
    as_hub_cache(vision_folder, tmp_path, "AvitoTech/avision")
    assert next_token(load_model(vision_spec(tmp_path), ignore)) == next_token(vision_model)


@pytest.mark.slow
def test_a_load_never_holds_a_second_copy(tmp_path):
    """In the saved dtype the weights are the mapped file; in another only the converted ones are allocated."""
    size = {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 6, "num_attention_heads": 8}
    folder = write_text_checkpoint(tmp_path, shard_size=20_000_000, **size)
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert stored > 150e6
    assert anonymous_growth(text_spec(folder)) < 0.1 * stored
    assert anonymous_growth(text_spec(folder, dtype="bfloat16")) < 0.6 * stored


def anonymous_growth(spec):
    """Return the peak growth of anonymous memory, in bytes, while a model is loaded."""

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    before, seen = anonymous(), []
    model = load_model(spec, lambda progress: seen.append(anonymous()))
    assert model.model.dtype == getattr(torch, spec.dtype)
    return max([*seen, anonymous()]) - before


# --- what is read from the files ---


def test_the_context_length_is_at_most_the_checkpoints(text_folder):
    """The setting can lower it and not raise it."""
    assert load_model(text_spec(text_folder), ignore).max_model_len == 1024
    assert load_model(text_spec(text_folder), ignore, 300).max_model_len == 300
    assert load_model(text_spec(text_folder), ignore, 5000).max_model_len == 1024


@pytest.mark.parametrize(
    ("stated", "ends"), [([499, 501], {499, 501}), (499, {499, 501}), (None, {501}), (500, {500, 501})]
)
def test_the_end_tokens_are_the_checkpoints_own(text_copy, stated, ends):
    """One or a list in the generation config, else those of the model config, and always that of the tokenizer."""
    change(text_copy / "generation_config.json", eos_token_id=stated)
    assert load_model(text_spec(text_copy), ignore).eos_token_ids == ends


def test_a_model_that_never_ends_does_not_start(text_copy):
    """Without any end token every answer would run to its limit."""
    change(text_copy / "generation_config.json", eos_token_id=None)
    change(text_copy / "config.json", eos_token_id=None)
    change(text_copy / "tokenizer_config.json", eos_token="<none>")
    tokenizer = text_copy / "tokenizer_config.json"
    content = json.loads(tokenizer.read_text())
    del content["eos_token"]
    tokenizer.write_text(json.dumps(content | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(StartError, match="names no end-of-sequence token"):
        load_model(text_spec(text_copy), ignore)


def test_sampling_defaults_are_returned_and_not_applied(text_model):
    """The checkpoint's parameters reach the routes, and a plain generate() stays greedy."""
    assert text_model.generation_defaults == {"temperature": 0.7, "top_p": 0.8, "top_k": 20.0}
    left = text_model.model.generation_config
    assert left.top_p is None
    assert not left.do_sample
    assert left.eos_token_id == [499, 501]


@pytest.mark.parametrize(
    ("stated", "used"),
    [
        ({"top_k": -1}, {"top_k": 0.0}),
        ({"top_p": 2}, {}),
        ({"top_p": math.nan}, {}),
        ({"repetition_penalty": 0}, {}),
        ({"repetition_penalty": 1e-40}, {}),
        ({"min_p": 0, "temperature": 0, "repetition_penalty": 1.05}, None),
        ({"min_p": -0.1, "temperature": "hot"}, {}),
    ],
)
def test_defaults_that_no_request_may_have_are_passed_over(stated, used):
    """A checkpoint may state anything; -1 is for all tokens."""
    found = {name: value for name, one in stated.items() if (value := loader._in_range(name, one)) is not None}
    assert found == (stated if used is None else used)


def test_the_chat_template_may_be_named(text_copy):
    """Of several templates the one named `default` is used."""
    templates = [{"name": "default", "template": "{{ messages[0].content }}"}, {"name": "rag", "template": "x"}]
    change(text_copy / "tokenizer_config.json", chat_template=templates)
    model = load_model(text_spec(text_copy), ignore)
    assert model.preparer.prepare(GREETING).token_ids == model.preparer._special.encode_plain("Привет")


def test_markers_are_cleaned_for_avision_alone(text_model, vision_model):
    """Avision always needs it; the vocabulary of Avibe has no markers."""
    assert vision_model.token_table.cleans
    assert not text_model.token_table.cleans


def test_a_converted_text_vocabulary_is_cleaned_too(tmp_path):
    """A vocabulary converted from SentencePiece is recognized by its tokens."""
    folder = write_text_checkpoint(tmp_path, extra_tokens=("<0x0A>",))
    assert load_model(text_spec(folder), ignore).token_table.cleans


# --- progress ---


@pytest.mark.parametrize("vision", [False, True])
def test_progress_counts_the_loaded_bytes(text_folder, vision_folder, vision):
    """It never decreases, and goes in many steps from 0 to exactly the size of the weights."""
    seen = []
    load_model(vision_spec(vision_folder) if vision else text_spec(text_folder), seen.append)
    steps = [progress for progress in seen if progress.stage == "loading weights"]
    loaded = [progress.loaded_bytes for progress in steps]
    assert loaded == sorted(loaded)
    assert loaded[0] == 0
    assert loaded[-1] == steps[-1].total_bytes > 0
    assert len(set(loaded)) > 10


def test_other_progress_bars_of_the_library_are_unaffected(text_folder):
    """Only the bar for loading weights is replaced."""
    counted = []
    load_model(
        text_spec(text_folder), lambda progress: counted.append(list(library_logging.tqdm([1, 2], disable=True)))
    )
    assert counted[-1] == [1, 2]


def test_the_state_of_the_library_is_restored(text_folder, text_copy):
    """Progress hook and log level are restored after every load, failed ones included."""
    level = library_logging.get_verbosity()
    rewrite(text_copy, "model.norm.weight", lambda tensor: tensor[:-1])
    load_model(text_spec(text_folder), ignore)
    with pytest.raises(StartError):
        load_model(text_spec(text_copy), ignore)
    assert library_logging.set_tqdm_hook(None) is None
    assert library_logging.get_verbosity() == level


# --- failures ---


def refusal(spec, **more):
    """Return the error sentence of a failed load."""
    with pytest.raises(StartError) as caught:
        load_model(spec, ignore, **more)
    return str(caught.value)


def test_a_model_that_does_not_fit_says_by_how_much(text_folder):
    """The sizes are in the error, before anything is loaded; half precision needs half."""
    sentence = refusal(text_spec(text_folder), available=lambda device: 300_000)
    assert sentence.startswith(f"VIBE_MODEL_DIR: the model in {text_folder} does not fit")
    assert "float32" in sentence
    assert load_model(text_spec(text_folder, dtype="float16"), ignore, available=lambda device: 300_000)


def test_missing_weights(text_copy):
    """The error names a tensor that is in neither index nor shards."""
    index = json.loads((text_copy / INDEX).read_text())
    del index["weight_map"]["model.norm.weight"]
    (text_copy / INDEX).write_text(json.dumps(index))
    name = next(text_copy.glob("model-00003*"))
    tensors = load_file(name)
    del tensors["model.norm.weight"]
    save_file(tensors, name, {"format": "pt"})
    sentence = refusal(text_spec(text_copy))
    assert "lacks weights: 1, among them model.norm.weight" in sentence
    assert str(text_copy) in sentence


def test_unexpected_weights(text_copy):
    """Tensors that no layer uses mean another model."""
    change(text_copy / "config.json", num_hidden_layers=1)
    assert "unknown weights" in refusal(text_spec(text_copy))


def test_weights_of_another_shape(text_copy):
    """A tensor that does not fit its layer."""
    rewrite(text_copy, "model.norm.weight", lambda tensor: tensor[:-1])
    assert "cannot be loaded (RuntimeError)" in refusal(text_spec(text_copy))


def test_a_tokenizer_of_another_model(text_copy, tmp_path):
    """Token ids beyond the vocabulary would index past the embedding table."""
    words = tmp_path / "words"
    write_tokenizer(words, tuple(f"слово{n}" for n in range(100)))
    sentence = refusal(text_spec(text_copy, words))
    assert sentence.startswith(f"VIBE_TOKENIZER_DIR: the tokenizer in {words} is not this model's")


def test_a_tokenizer_the_library_cannot_read(text_copy):
    """Valid JSON that is not a tokenizer."""
    (text_copy / "tokenizer.json").write_text('{"model": 3}')
    assert refusal(text_spec(text_copy)).startswith("VIBE_TOKENIZER_DIR: the tokenizer in")


def test_a_tokenizer_without_a_template(text_copy):
    """Without it conversations cannot be rendered."""
    change(text_copy / "tokenizer_config.json", chat_template=None)
    assert "has no chat template" in refusal(text_spec(text_copy))


def test_a_vision_model_without_its_processor(vision_copy):
    """The file of the image processor is missing."""
    (vision_copy / "preprocessor_config.json").unlink()
    assert "lacks preprocessor_config.json (or processor_config.json)" in refusal(vision_spec(vision_copy))


def test_a_failed_load_leaves_no_model_behind(tmp_path):
    """After a failed load the same folder, repaired, loads."""
    folder = write_vision_checkpoint(tmp_path)
    shard = next(folder.glob("model-00002*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    assert "truncated" in refusal(vision_spec(folder))
    shard.write_bytes(whole)
    assert load_model(vision_spec(folder), ignore).vocab_size == 544
