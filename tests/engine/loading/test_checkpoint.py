"""Finding a checkpoint folder, and every way in which one can be broken."""

import json
import os
import struct

import pytest

from engine.errors import StartError
from engine.loading.checkpoint import find_checkpoint, find_tokenizer
from tests.checkpoints import as_hub_cache

QWEN3 = "Qwen3ForCausalLM"
INDEX = "model.safetensors.index.json"


def find(folder, architecture=QWEN3):
    """Look for a checkpoint as the loader does."""
    return find_checkpoint(folder, "VIBE_MODEL_DIR", architecture)


def refusal(folder, architecture=QWEN3):
    """Return the sentence with which a folder is refused, after checking that it names the setting and the folder."""
    with pytest.raises(StartError) as caught:
        find(folder, architecture)
    sentence = str(caught.value)
    assert sentence.startswith("VIBE_MODEL_DIR: ")
    assert str(folder) in sentence
    assert sentence.endswith(".")
    return sentence


def change(path, **changes):
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- finding ---


def test_a_plain_folder_is_found(text_folder):
    """Several shards, their index and the sizes of everything."""
    checkpoint = find(text_folder)
    assert checkpoint.folder == text_folder
    assert len(list(text_folder.glob("*.safetensors"))) > 2
    index = json.loads((text_folder / INDEX).read_text())
    assert checkpoint.total_bytes == index["metadata"]["total_size"]
    assert checkpoint.loaded_bytes(2) == checkpoint.total_bytes // 2


@pytest.mark.parametrize("meant", ["cache", "cache/models--AvitoTech--avibe", "."])
def test_a_hub_cache_is_found(text_folder, tmp_path, meant):
    """The cache itself, one model's folder in it, and a folder with the cache as `hub` lead to the snapshot."""
    cache = tmp_path / ("hub" if meant == "." else "cache")
    snapshot = as_hub_cache(text_folder, cache)
    assert find(tmp_path / meant).folder == snapshot


def test_the_newest_complete_snapshot_is_taken(text_folder, tmp_path):
    """An interrupted download beside a complete snapshot is passed over, whatever its age."""
    oldest, newer, newest = (as_hub_cache(text_folder, tmp_path, revision=letter * 40) for letter in "abc")
    for age, snapshot in enumerate((newest, newer, oldest)):
        os.utime(snapshot, (10**9 - age, 10**9 - age))
    assert find(tmp_path).folder == newest
    (newest / "model-00001-of-00003.safetensors").unlink()
    os.utime(newest, (10**9, 10**9))
    assert find(tmp_path).folder == newer


def test_an_interrupted_download_alone_says_what_it_lacks(text_folder, tmp_path):
    """A link whose blob never arrived is a missing shard."""
    snapshot = as_hub_cache(text_folder, tmp_path)
    (snapshot / "model-00002-of-00003.safetensors").resolve().unlink()
    with pytest.raises(StartError, match="lacks the shard model-00002-of-00003") as caught:
        find(tmp_path)
    assert str(snapshot) in str(caught.value)


def test_the_right_model_is_taken_from_a_shared_cache(text_folder, vision_folder, tmp_path):
    """Two models in one cache are told apart by their architecture."""
    text = as_hub_cache(text_folder, tmp_path)
    vision = as_hub_cache(vision_folder, tmp_path, "AvitoTech/avision")
    assert find(tmp_path).folder == text
    assert find(tmp_path, "Qwen2_5_VLForConditionalGeneration").folder == vision


def test_a_single_file_needs_no_index(text_folder, tmp_path):
    """A small model in one `model.safetensors`."""
    (tmp_path / "config.json").write_bytes((text_folder / "config.json").read_bytes())
    write_shard(tmp_path / "model.safetensors", {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8)
    assert find(tmp_path).total_bytes == 8


# --- refusals ---


def test_a_missing_folder(tmp_path):
    """Nothing there."""
    assert "does not exist" in refusal(tmp_path / "nothing")


def test_a_file_in_place_of_a_folder(tmp_path):
    """A file is not a checkpoint."""
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in refusal(tmp_path / "file")


def test_an_empty_folder(tmp_path):
    """No configuration, no model."""
    assert "holds no model" in refusal(tmp_path)


def test_a_missing_shard(text_copy):
    """The index names a file that is not there."""
    (text_copy / "model-00002-of-00003.safetensors").unlink()
    assert "lacks the shard model-00002-of-00003.safetensors" in refusal(text_copy)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_shard(text_copy, keep):
    """A download that broke off, at any place: the file is shorter than its header says."""
    shard = text_copy / "model-00001-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:keep])
    assert "truncated" in refusal(text_copy)


def test_a_shard_with_something_after_its_data(text_copy):
    """Too long is broken too."""
    shard = text_copy / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes() + b"x")
    assert "broken shard" in refusal(text_copy)


@pytest.mark.parametrize("header", [b"no json", b"[]", b'{"a": {"dtype": "F32"}}', b'{"a": 3}'])
def test_a_shard_whose_header_is_no_header(text_copy, header):
    """Bytes that are not a safetensors header."""
    shard = text_copy / "model-00001-of-00003.safetensors"
    shard.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "broken shard model-00001" in refusal(text_copy)


def test_an_index_that_disagrees_with_a_shard(text_copy):
    """A tensor that its shard does not hold."""
    index = json.loads((text_copy / INDEX).read_text())
    index["weight_map"]["model.more.weight"] = "model-00001-of-00003.safetensors"
    (text_copy / INDEX).write_text(json.dumps(index))
    assert "lacks the tensor model.more.weight" in refusal(text_copy)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {"a": "../b.safetensors"}}', "{"])
def test_a_broken_index(text_copy, index):
    """Broken JSON, no map, or a path that leads out of the folder."""
    (text_copy / INDEX).write_text(index)
    assert f"broken {INDEX}" in refusal(text_copy)


def test_pickled_weights_are_never_loaded(text_copy):
    """A `.bin` checkpoint is refused with a word on what to do."""
    for file in (*text_copy.glob("*.safetensors"), text_copy / INDEX):
        file.unlink()
    (text_copy / "pytorch_model.bin").write_bytes(b"")
    sentence = refusal(text_copy)
    assert "pytorch_model.bin, a pickle" in sentence
    assert "convert to safetensors" in sentence


def test_a_folder_without_weights(text_copy):
    """A configuration alone is no model."""
    for file in (*text_copy.glob("*.safetensors"), text_copy / INDEX):
        file.unlink()
    assert "holds no weights" in refusal(text_copy)


def test_a_model_of_another_architecture(vision_folder):
    """The two model folders were exchanged."""
    assert "Qwen2_5_VLForConditionalGeneration, but Qwen3ForCausalLM is needed" in refusal(vision_folder)


def test_a_configuration_without_an_architecture(text_copy):
    """The model type stands in for it in the sentence."""
    change(text_copy / "config.json", architectures=None, model_type="gpt2")
    assert "architecture gpt2" in refusal(text_copy)


@pytest.mark.parametrize("config", ["{", "[]"])
def test_a_broken_configuration(text_copy, config):
    """Broken JSON, or JSON that is no object."""
    (text_copy / "config.json").write_text(config)
    assert "broken config.json" in refusal(text_copy)


def test_quantized_weights(text_copy):
    """What the engine does not run is refused before it is loaded."""
    change(text_copy / "config.json", quantization_config={"quant_method": "awq"})
    assert "quantized" in refusal(text_copy)


@pytest.fixture
def stranger():
    """Run as a user whom file permissions bind, also where the tests run as root."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    yield
    os.seteuid(own)


@pytest.fixture
def locked(request, text_copy):
    """A checkpoint with one unreadable entry, in a folder that anybody may enter."""
    entry = text_copy / request.param
    os.chmod(entry, 0)
    for parent in (text_copy, *text_copy.parents):
        if parent.stat().st_uid == os.geteuid() and str(parent) != "/" and parent != entry:
            os.chmod(parent, parent.stat().st_mode | 0o055)
    yield text_copy
    os.chmod(entry, 0o700)


@pytest.mark.parametrize("locked", [".", "config.json", "model-00001-of-00003.safetensors"], indirect=True)
@pytest.mark.usefixtures("locked", "stranger")
def test_a_folder_that_may_not_be_read(text_copy):
    """Wrong owner or mode, of the folder or of one file in it."""
    assert "cannot be read (Permission denied)" in refusal(text_copy)


# --- tokenizers ---


def test_a_tokenizer_folder_of_its_own_or_in_a_cache(text_folder, tmp_path):
    """Plain, and as a Hugging Face cache."""
    assert find_tokenizer(text_folder, "VIBE_TOKENIZER_DIR") == text_folder
    snapshot = as_hub_cache(text_folder, tmp_path)
    assert find_tokenizer(tmp_path, "VIBE_TOKENIZER_DIR") == snapshot


def test_an_old_tokenizer_of_two_files_is_enough(text_copy):
    """Vocabulary and merges, as older checkpoints have them."""
    (text_copy / "tokenizer.json").unlink()
    assert find_tokenizer(text_copy, "VIBE_TOKENIZER_DIR") == text_copy


def test_a_missing_tokenizer(text_copy):
    """The sentence names the tokenizer's setting and its folder."""
    for name in ("tokenizer.json", "merges.txt"):
        (text_copy / name).unlink()
    with pytest.raises(StartError, match=f"^VIBE_TOKENIZER_DIR: the folder {text_copy} holds no tokenizer"):
        find_tokenizer(text_copy, "VIBE_TOKENIZER_DIR")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_file(text_copy, name):
    """Broken JSON in either file."""
    (text_copy / name).write_text("{")
    with pytest.raises(StartError, match=f"broken {name}"):
        find_tokenizer(text_copy, "VIBE_TOKENIZER_DIR")


def write_shard(path, header, size):
    """Write a safetensors file by hand."""
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + bytes(size))
