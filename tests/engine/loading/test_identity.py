"""A checkpoint's identity: its name, what it hashes, and what changes the fingerprint of its answers."""

import json
from dataclasses import replace

import pytest

from engine.loading.checkpoint import find_checkpoint
from engine.loading.identity import identify
from models.selection import DEMO_FOLDER
from tests.checkpoints import as_hub_cache, text_spec, write_text_checkpoint

ARCHITECTURE = "Qwen3ForCausalLM"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint in a plain folder."""
    return write_text_checkpoint(tmp_path_factory.mktemp("models") / "a-vibe-2")


def identity(folder, **spec):
    return identify(text_spec(folder, **spec), find_checkpoint(folder, "VIBE_MODEL_DIR", ARCHITECTURE))


def test_a_plain_folder_names_its_checkpoint(folder):
    """The folder's own name, behind a link too; no revision is known."""
    link = folder.parent / "current"
    link.symlink_to(folder)
    assert (identity(folder).name, identity(folder).revision) == ("a-vibe-2", None)
    assert identity(link) == identity(folder)


@pytest.mark.parametrize(
    ("repo", "name"), [("AvitoTech/avibe", "AvitoTech/avibe"), ("gpt2", "gpt2"), ("a-b/c--d", "a-b/c--d")]
)
def test_a_hugging_face_cache_names_repository_and_revision(folder, tmp_path, repo, name):
    """`models--owner--name/snapshots/<commit>` is read as the hub writes it."""
    as_hub_cache(folder, tmp_path, repo, COMMIT)
    found = identity(tmp_path)
    assert (found.name, found.revision) == (name, COMMIT)
    assert found.digest == identity(folder).digest


def test_the_demo_is_named_as_what_it_is():
    """Its folder is called like the model, which it is not."""
    found = identity(DEMO_FOLDER / "avibe", served_id="avibe-demo", demo=True)
    assert found.name == "avibe-demo"
    assert len(found.digest) == 64


def test_the_setting_names_the_checkpoint(folder):
    """VIBE_NAME wins over the folder."""
    assert identity(folder, checkpoint_name="ours").name == "ours"


def test_the_hash_is_of_headers_and_config_and_of_nothing_else(folder, tmp_path):
    """Other weights, spaces and order of keys leave it; another shape or another value of the config changes it."""
    same = write_text_checkpoint(tmp_path / "same", seed=7)
    config = same / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(dict(reversed(values.items())), indent=7))
    assert identity(same).digest == identity(folder).digest
    config.write_text(json.dumps(values | {"rms_norm_eps": 1e-3}))
    assert identity(same).digest != identity(folder).digest
    other = write_text_checkpoint(tmp_path / "other", tie_word_embeddings=False)
    assert identity(other).digest not in (identity(folder).digest, identity(same).digest)


def test_the_fingerprint_changes_with_whatever_changes_the_numbers(folder, tmp_path):
    """The name, the revision, the dtype, the device and the version of the service; not where the folder stands."""
    as_hub_cache(folder, tmp_path / "one", revision="1" * 40)
    as_hub_cache(folder, tmp_path / "two", revision="2" * 40)
    plain = text_spec(folder)
    checkpoint = find_checkpoint(folder, "VIBE_MODEL_DIR", ARCHITECTURE)
    others = ({"dtype": "bfloat16"}, {"device": "cuda:1"}, {"engine_version": "9"}, {"checkpoint_name": "x"})
    found = [identify(replace(plain, **change), checkpoint) for change in ({}, *others)]
    found += [identity(tmp_path / "one"), identity(tmp_path / "two")]
    assert len({one.fingerprint for one in found}) == len(found)
    assert identify(replace(plain, device="cuda:0"), checkpoint) == identify(
        replace(plain, device="cuda:1"), checkpoint
    )
    moved = as_hub_cache(folder, tmp_path / "moved", revision="1" * 40)
    assert identity(moved).fingerprint == identity(tmp_path / "one").fingerprint


def test_no_data_is_read(tmp_path):
    """Of real weights only the headers are: a sparse file that holds nothing else has an identity."""
    folder = write_text_checkpoint(tmp_path / "model")
    before = identity(folder)
    for shard in folder.glob("*.safetensors"):
        with shard.open("r+b") as file:
            header = int.from_bytes(file.read(8), "little")
            size = shard.stat().st_size
            file.truncate(8 + header)
            file.truncate(size)
    assert identity(folder) == before
