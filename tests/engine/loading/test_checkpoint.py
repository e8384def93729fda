"""Finding a checkpoint folder, and the error for every way in which one can be invalid."""

import json
import os
import struct

import pytest
from safetensors.numpy import load_file, save_file

from engine.errors import StartError
from engine.loading.checkpoint import find_checkpoint, find_tokenizer
from tests.checkpoints import as_hub_cache

QWEN3 = "Qwen3ForCausalLM"
INDEX = "model.safetensors.index.json"


def find(folder, architecture=QWEN3):
    """Look for a checkpoint as the loader does."""
    return find_checkpoint(folder, "VIBE_MODEL_DIR", architecture)


def refusal(folder, architecture=QWEN3):
    """Return the error sentence for a folder, after checking that it names the setting and the folder."""
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


@pytest.mark.parametrize("setting", ["cache", "cache/models--AvitoTech--avibe", "."])
def test_a_hub_cache_is_found(text_folder, tmp_path, setting):
    """The cache itself, the folder of one model in it, and a folder with the cache as `hub` lead to the snapshot."""
    cache = tmp_path / ("hub" if setting == "." else "cache")
    snapshot = as_hub_cache(text_folder, cache)
    assert find(tmp_path / setting).folder == snapshot


def test_the_newest_complete_snapshot_is_taken(text_folder, tmp_path):
    """An incomplete download is skipped if there is a complete snapshot, whatever its age."""
    oldest, newer, newest = (as_hub_cache(text_folder, tmp_path, revision=letter * 40) for letter in "abc")
    for age, snapshot in enumerate((newest, newer, oldest)):
        os.utime(snapshot, (10**9 - age, 10**9 - age))
    assert find(tmp_path).folder == newest
    (newest / "model-00001-of-00003.safetensors").unlink()
    os.utime(newest, (10**9, 10**9))
    assert find(tmp_path).folder == newer


def test_an_incomplete_download_alone_names_the_missing_shard(text_folder, tmp_path):
    """A link without its blob is a missing shard."""
    snapshot = as_hub_cache(text_folder, tmp_path)
    (snapshot / "model-00002-of-00003.safetensors").resolve().unlink()
    with pytest.raises(StartError, match="lacks the shard model-00002-of-00003") as caught:
        find(tmp_path)
    assert str(snapshot) in str(caught.value)


def test_the_right_model_is_taken_from_a_shared_cache(text_folder, vision_folder, tmp_path):
    """Two models in one cache are distinguished by their architecture."""
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
    """The folder does not exist."""
    assert "does not exist" in refusal(tmp_path / "nothing")


def test_a_file_in_place_of_a_folder(tmp_path):
    """A file is not a checkpoint."""
    (tmp_path / "file").write_text("x")
    assert "is not a folder" in refusal(tmp_path / "file")


def test_an_empty_folder(tmp_path):
    """Without config.json it is no model."""
    assert "holds no model" in refusal(tmp_path)


def test_a_missing_shard(text_copy):
    """The index names a file that does not exist."""
    (text_copy / "model-00002-of-00003.safetensors").unlink()
    assert "lacks the shard model-00002-of-00003.safetensors" in refusal(text_copy)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_shard(text_copy, keep):
    """A download interrupted at any byte: the file is shorter than its header says."""
    shard = text_copy / "model-00001-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:keep])
    assert "truncated" in refusal(text_copy)


def test_a_shard_with_something_after_its_data(text_copy):
    """A file longer than its header says is broken."""
    shard = text_copy / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes() + b"x")
    assert "broken shard" in refusal(text_copy)


@pytest.mark.parametrize("header", [b"no json", b"[]", b'{"a": {"dtype": "F32"}}', b'{"a": 3}'])
def test_a_shard_with_an_invalid_header(text_copy, header):
    """The bytes are not a safetensors header."""
    shard = text_copy / "model-00001-of-00003.safetensors"
    shard.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "broken shard model-00001" in refusal(text_copy)


def test_an_index_that_disagrees_with_a_shard(text_copy):
    """The index names a tensor that its shard does not contain."""
    index = json.loads((text_copy / INDEX).read_text())
    index["weight_map"]["model.more.weight"] = "model-00001-of-00003.safetensors"
    (text_copy / INDEX).write_text(json.dumps(index))
    assert "lacks the tensor model.more.weight" in refusal(text_copy)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": {"a": "../b.safetensors"}}', "{"])
def test_a_broken_index(text_copy, index):
    """Broken JSON, no weight map, or a path outside the folder."""
    (text_copy / INDEX).write_text(index)
    assert f"broken {INDEX}" in refusal(text_copy)


def test_pickled_weights_are_never_loaded(text_copy):
    """A `.bin` checkpoint is rejected, and the error says what to do."""
    for file in (*text_copy.glob("*.safetensors"), text_copy / INDEX):
        file.unlink()
    (text_copy / "pytorch_model.bin").write_bytes(b"")
    sentence = refusal(text_copy)
    assert "pytorch_model.bin, a pickle" in sentence
    assert "convert to safetensors" in sentence


def test_a_folder_without_weights(text_copy):
    """config.json alone is not a model."""
    for file in (*text_copy.glob("*.safetensors"), text_copy / INDEX):
        file.unlink()
    assert "holds no weights" in refusal(text_copy)


def test_a_model_of_another_architecture(vision_folder):
    """As if the two model folders were swapped."""
    assert "Qwen2_5_VLForConditionalGeneration, but Qwen3ForCausalLM is needed" in refusal(vision_folder)


def test_a_configuration_without_an_architecture(text_copy):
    """The error names the model type instead."""
    change(text_copy / "config.json", architectures=None, model_type="gpt2")
    assert "architecture gpt2" in refusal(text_copy)


@pytest.mark.parametrize("config", ["{", "[]"])
def test_a_broken_configuration(text_copy, config):
    """Broken JSON, or JSON that is not an object."""
    (text_copy / "config.json").write_text(config)
    assert "broken config.json" in refusal(text_copy)


def test_quantized_weights(text_copy):
    """Quantized weights are not supported and are rejected before loading."""
    change(text_copy / "config.json", quantization_config={"quant_method": "awq"})
    assert "quantized" in refusal(text_copy)


@pytest.fixture
def unprivileged():
    """Run as a user to whom file permissions apply, even if the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.fixture
def locked(request, text_copy):
    """A checkpoint with one unreadable entry, in folders that every user may enter."""
    entry = text_copy / request.param
    os.chmod(entry, 0)
    for parent in (text_copy, *text_copy.parents):
        if parent.stat().st_uid == os.geteuid() and str(parent) != "/" and parent != entry:
            os.chmod(parent, parent.stat().st_mode | 0o055)
    yield text_copy
    os.chmod(entry, 0o700)


@pytest.mark.parametrize("locked", [".", "config.json", "model-00001-of-00003.safetensors"], indirect=True)
@pytest.mark.usefixtures("locked", "unprivileged")
def test_an_unreadable_folder(text_copy):
    """The folder, or one file in it, has the wrong owner or mode."""
    assert "cannot be read (Permission denied)" in refusal(text_copy)


# --- tokenizers ---


def test_a_tokenizer_is_found_in_a_folder_or_a_cache(text_folder, tmp_path):
    """A plain folder, and a Hugging Face cache."""
    assert find_tokenizer(text_folder, "VIBE_TOKENIZER_DIR") == text_folder
    snapshot = as_hub_cache(text_folder, tmp_path)
    assert find_tokenizer(tmp_path, "VIBE_TOKENIZER_DIR") == snapshot


def test_a_checkpoint_has_its_own_tokenizer_where_a_cache_holds_others(text_folder, vision_folder, tmp_path):
    """Neither that of the other model, which may be newer, nor that of a revision whose weights are not there yet."""
    snapshots = {
        QWEN3: as_hub_cache(text_folder, tmp_path, "AvitoTech/avibe", "a" * 40),
        "Qwen2_5_VLForConditionalGeneration": as_hub_cache(vision_folder, tmp_path, "AvitoTech/avision", "b" * 40),
    }
    half = as_hub_cache(text_folder, tmp_path, "AvitoTech/avibe", "c" * 40)
    for shard in half.glob("*.safetensors"):
        shard.unlink()
    for architecture, snapshot in snapshots.items():
        for newest in (*snapshots.values(), half):
            for one in (*snapshots.values(), half):
                os.utime(one, (1e9, 1e9 + (one == newest)))
            found = find(tmp_path, architecture).folder
            assert found == snapshot
            assert find_tokenizer(tmp_path, "VIBE_TOKENIZER_DIR", found, architecture) == snapshot


def test_another_models_tokenizer_in_a_cache_is_passed_over(text_folder, vision_folder, tmp_path):
    """Where the checkpoint lies elsewhere; a folder that is named itself may hold what it likes."""
    cache = tmp_path / "cache"
    own = as_hub_cache(text_folder, cache, "AvitoTech/avibe", "a" * 40)
    other = as_hub_cache(vision_folder, cache, "AvitoTech/avision", "b" * 40)
    os.utime(own, (1e9, 1e9))
    os.utime(other, (2e9, 2e9))
    assert find_tokenizer(cache, "VIBE_TOKENIZER_DIR", text_folder, QWEN3) == own
    assert find_tokenizer(vision_folder, "VIBE_TOKENIZER_DIR", text_folder, QWEN3) == vision_folder


def test_an_old_tokenizer_of_two_files_is_enough(text_copy):
    """`vocab.json` and `merges.txt`, as in older checkpoints."""
    (text_copy / "tokenizer.json").unlink()
    assert find_tokenizer(text_copy, "VIBE_TOKENIZER_DIR") == text_copy


def test_a_missing_tokenizer(text_copy):
    """The error names the tokenizer's setting and its folder."""
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


def test_weights_that_are_there_twice_are_refused(text_copy):
    """One file and an index: which of them is loaded is nothing to guess."""
    write_shard(text_copy / "model.safetensors", {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, 4)
    assert "holds weights twice" in refusal(text_copy)


def test_an_index_may_name_a_single_file(text_copy):
    """Some programs write an index for it as well."""
    tensors = {}
    for shard in sorted(text_copy.glob("*.safetensors")):
        tensors |= load_file(shard)
        shard.unlink()
    save_file(tensors, text_copy / "model.safetensors", {"format": "pt"})
    change(text_copy / INDEX, weight_map=dict.fromkeys(tensors, "model.safetensors"))
    assert find(text_copy)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": []},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [0, 4]},
        {"dtype": 32, "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]},
        7,
    ],
)
def test_a_header_that_describes_no_tensor_is_refused(text_copy, entry):
    """Whatever is missing, or of another type."""
    (text_copy / INDEX).unlink()
    for shard in text_copy.glob("*.safetensors"):
        shard.unlink()
    write_shard(text_copy / "model.safetensors", {"x": entry}, 4)
    assert "has a broken shard model.safetensors" in refusal(text_copy)


def test_architectures_that_are_no_list_are_refused(text_copy):
    """As a sentence."""
    change(text_copy / "config.json", architectures=7)
    assert "has a broken config.json" in refusal(text_copy)
