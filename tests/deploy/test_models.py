"""deploy/models.py: downloads from a hub, continues and verifies them, checks the folders and names the settings."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub import constants

from deploy import hub as hub_module
from deploy.model_facts import BOTH_GPU_GB, MODELS
from deploy.models import Progress, main
from engine.loading.checkpoint import find_checkpoint
from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint
from tests.deploy.hub_server import SmallHub, serving

TOKEN = "hf_abcdefgh"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both checkpoints; that of Avibe has several shards."""
    folder = tmp_path_factory.mktemp("published")
    write_text_checkpoint(folder / "avibe", shard_size=100_000)
    write_vision_checkpoint(folder / "avision")
    return folder


@pytest.fixture
def published(written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SmallHub]:
    """A hub with both models, to which HF_ENDPOINT points."""
    hub = SmallHub()
    for name, model in MODELS.items():
        hub.add(model.repository, written / name, "README.md", "modeling.py", "onnx/model.safetensors")
    with serving(hub):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def get(tmp_path: Path) -> Callable[..., int]:
    """Run the command into the folder `to`; the settings go to the file `settings`."""

    def run(*words: str) -> int:
        return main(["--to", str(tmp_path / "to"), "--settings", str(tmp_path / "settings"), *words])

    return run


Get = Callable[..., int]
Screen = pytest.CaptureFixture[str]


def first_shard(hub: SmallHub) -> str:
    """Return the name of a file of weights of Avibe."""
    return next(name for name in hub.repositories["AvitoTech/avibe"] if name.startswith("model-00001"))


def test_both_models_are_downloaded_checked_and_named(
    published: SmallHub, get: Get, tmp_path: Path, capsys: Screen, written: Path
) -> None:
    """Afterwards the folders are what a start accepts, and hold nothing else; the lines are those of the settings."""
    assert get() == 0
    to = tmp_path / "to"
    assert (tmp_path / "settings").read_text().splitlines() == [
        f"VIBE_MODEL_DIR={to}/avibe",
        f"VIBE_TOKENIZER_DIR={to}/avibe",
        f"VISION_MODEL_DIR={to}/avision",
    ]
    find_checkpoint(to / "avibe", "VIBE_MODEL_DIR", "Qwen3ForCausalLM")
    for name in MODELS:
        assert {p.name: p.read_bytes() for p in (to / name).iterdir()} == {
            p.name: p.read_bytes() for p in (written / name).iterdir()
        }
    screen = capsys.readouterr().out
    assert f"{published.url}/AvitoTech/avibe, about 16.4 GB on disk, from 20 GB of GPU memory." in screen
    assert "licence apache-2.0" in screen
    assert "GB are free there" in screen
    assert "avision: complete, its checksums are right, and the service can read it." in screen


def test_a_second_run_downloads_nothing(published: SmallHub, get: Get) -> None:
    """What is there and right is kept."""
    assert get("avibe") == 0
    published.ranges.clear()
    assert get("avibe") == 0
    assert published.ranges == []


def test_a_dry_run_changes_nothing(published: SmallHub, get: Get, tmp_path: Path, capsys: Screen) -> None:
    """Sizes and free space are shown; no folder is made and no setting named."""
    assert get("--dry-run") == 0
    assert not (tmp_path / "to").exists()
    assert not (tmp_path / "settings").exists()
    assert "to download to" in capsys.readouterr().out


def test_a_broken_transfer_goes_on_where_it_stopped(
    published: SmallHub, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a run the rest of the file is asked for, and only that."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # of what arrived, up to a chunk is lost
    shard = first_shard(published)
    published.cut[shard] = 1000
    assert get("avibe") == 0
    assert [asked for name, asked in published.ranges if name == shard] == [None, "bytes=1000-"]


def test_what_an_earlier_run_left_is_continued(published: SmallHub, get: Get, tmp_path: Path) -> None:
    """A killed run leaves a partial file, and the next one asks for the rest."""
    shard = first_shard(published)
    file = next(f for f in hub_module.list_repository("AvitoTech/avibe").files if f.name == shard)
    folder = tmp_path / "to/avibe"
    folder.mkdir(parents=True)
    content = published.repositories["AvitoTech/avibe"][shard]
    (folder / f".{shard}.{file.digest[:16]}.part").write_bytes(content[:700])
    assert get("avibe") == 0
    assert (shard, "bytes=700-") in published.ranges
    assert (folder / shard).read_bytes() == content
    assert not list(folder.glob("*.part")) + list(folder.glob(".*"))


def test_a_part_of_other_content_is_not_continued(published: SmallHub, get: Get, tmp_path: Path) -> None:
    """Where the published file has changed since, its download begins again."""
    shard = first_shard(published)
    folder = tmp_path / "to/avibe"
    folder.mkdir(parents=True)
    (folder / f".{shard}.0123456789abcdef.part").write_bytes(b"x" * 700)
    assert get("avibe") == 0
    assert (shard, None) in published.ranges


def test_a_damaged_file_that_is_there_is_replaced(published: SmallHub, get: Get, tmp_path: Path) -> None:
    """Size alone is no proof: a file with one wrong byte is downloaded again."""
    assert get("avibe") == 0
    shard = tmp_path / "to/avibe" / first_shard(published)
    right = shard.read_bytes()
    shard.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert get("avibe") == 0
    assert shard.read_bytes() == right


@pytest.mark.parametrize("name", ["large", "config.json"])
def test_a_wrong_checksum_is_refused(published: SmallHub, get: Get, tmp_path: Path, capsys: Screen, name: str) -> None:
    """Of large and of small files; the file is not kept, no setting is named, and the next run succeeds."""
    name = first_shard(published) if name == "large" else name
    content = published.repositories["AvitoTech/avibe"][name]
    published.swapped[name] = content[:-1] + b"\xff"
    assert get("avibe") == 1
    assert f"{name} of {published.url}/AvitoTech/avibe arrived damaged" in capsys.readouterr().err
    assert not (tmp_path / "to/avibe" / name).exists()
    assert (tmp_path / "settings").read_text() == ""
    del published.swapped[name]
    assert get("avibe") == 0


@pytest.mark.parametrize("files_only", [False, True], ids=["listing", "files"])
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "GatedRepo", "accept them there"),
        (403, "GatedRepo", "accept them there"),
        (403, "", "accept them there"),
        (401, "", "only some accounts may see it"),
        (404, "RepoNotFound", "does not exist"),
    ],
)
def test_closed_repositories_say_what_to_do(
    published: SmallHub, get: Get, capsys: Screen, status: int, code: str, expected: str, files_only: bool
) -> None:
    """Gated, private and missing ones name their page and HF_TOKEN; the other model is downloaded all the same."""
    published.refused["AvitoTech/avibe"], published.files_only = (status, code), files_only
    assert get() == 1
    said = capsys.readouterr()
    assert f"Error: {published.url}/AvitoTech/avibe" in said.err
    assert expected in said.err
    assert "HF_TOKEN=" in said.err
    assert "avision: complete" in said.out


def test_a_token_opens_a_gated_repository_and_stays_there(
    published: SmallHub, get: Get, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    """HF_TOKEN is sent to the hub, neither to the host of the files nor to the screen."""
    published.refused["AvitoTech/avibe"], published.token = (401, "GatedRepo"), TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert get("avibe") == 0
    assert set(published.elsewhere) == {None}
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_token_may_stand_in_a_file(
    published: SmallHub, get: Get, monkeypatch: pytest.MonkeyPatch, capsys: Screen, tmp_path: Path
) -> None:
    """HF_TOKEN_FILE names it; where that cannot be read, nothing is asked for without it."""
    published.refused["AvitoTech/avibe"], published.token = (401, "GatedRepo"), TOKEN
    monkeypatch.setenv("HF_TOKEN_FILE", str(tmp_path / "token"))
    assert get("avibe") == 1
    assert f"HF_TOKEN_FILE={tmp_path}/token cannot be read: No such file" in capsys.readouterr().err
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert get("avibe") == 0
    assert set(published.elsewhere) == {None}
    assert TOKEN not in "".join(capsys.readouterr())


def test_a_full_disk_is_said_before_the_download(
    published: SmallHub, get: Get, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Needed and free space are named, and nothing is transferred."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert get("avibe") == 1
    assert "Not enough disk space" in capsys.readouterr().err
    assert published.ranges == []


def test_a_repository_that_lacks_a_shard_is_refused_before_the_weights(
    published: SmallHub, get: Get, capsys: Screen
) -> None:
    """A file that the index names and the repository does not have is found before gigabytes are transferred."""
    shard = first_shard(published)
    del published.repositories["AvitoTech/avibe"][shard]
    assert get("avibe") == 1
    assert f"is incomplete: it lacks {shard}" in capsys.readouterr().err
    assert not [name for name, _ in published.ranges if name.endswith(".safetensors")]


def test_a_repository_of_pickles_is_refused(published: SmallHub, get: Get, tmp_path: Path, capsys: Screen) -> None:
    """Weights as a pickle are not downloaded."""
    files = published.repositories["AvitoTech/avibe"]
    for name in [name for name in files if name.endswith(".safetensors")]:
        del files[name]
    files["pytorch_model.bin"] = b"pickle"
    assert get("avibe") == 1
    assert "pytorch_model.bin, a pickle, which is never loaded" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_a_folder_that_no_start_accepts_is_named_in_no_setting(
    published: SmallHub, get: Get, tmp_path: Path, capsys: Screen
) -> None:
    """The service's own check runs over what was downloaded: here a model without a tokenizer."""
    for name in ("tokenizer.json", "vocab.json"):
        published.repositories["AvitoTech/avibe"].pop(name, None)
    assert get("avibe") == 1
    assert "holds no tokenizer" in capsys.readouterr().err
    assert (tmp_path / "settings").read_text() == ""


def test_without_a_network_it_says_what_to_copy(
    published: SmallHub, get: Get, tmp_path: Path, capsys: Screen, monkeypatch: pytest.MonkeyPatch, written: Path
) -> None:
    """Files, source and target are named; once they are there, they are checked and the settings written."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert get("avibe") == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9 cannot be reached" in said
    assert "hf download AvitoTech/avibe --include '*.safetensors'" in said
    assert f"to {tmp_path}/to/avibe on this machine" in said
    shutil.copytree(written / "avibe", tmp_path / "to/avibe")
    assert get("avibe") == 0
    assert f"VIBE_MODEL_DIR={tmp_path}/to/avibe" in (tmp_path / "settings").read_text()
    assert "could not be compared with their checksums" in capsys.readouterr().out


def test_files_on_a_host_that_is_out_of_reach_are_told_apart(
    published: SmallHub, get: Get, capsys: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page can be reached and the host of its files cannot, as behind some firewalls."""
    monkeypatch.setattr(hub_module, "http_get", _no_route)
    assert get("avibe") == 1
    said = capsys.readouterr().err
    assert f"The files of {published.url}/AvitoTech/avibe cannot be reached" in said
    assert "Without a network:" in said


def _no_route(*_: object, **__: object) -> None:
    raise httpx2.ConnectError("no route")


@pytest.mark.parametrize("address", ["nonsense", "http://", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_said(
    get: Get, capsys: Screen, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """HF_ENDPOINT is named in the message, and there is no traceback."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert get("avibe") == 1
    assert address in capsys.readouterr().err


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_said_with_its_status(published: SmallHub, get: Get, capsys: Screen, status: int) -> None:
    """Later the same command continues."""
    published.refused["AvitoTech/avibe"] = (status, "")
    assert get("avibe") == 1
    assert f"answered with status {status}; run this again later" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, published: SmallHub, capsys: Screen) -> None:
    """The path and the reason, without a traceback."""
    (tmp_path / "file").write_text("")
    assert main(["--to", str(tmp_path / "file/models"), "avibe"]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_two_downloads_do_not_mix(published: SmallHub, get: Get, tmp_path: Path, capsys: Screen) -> None:
    """The second into the same folder ends with a sentence."""
    folder = tmp_path / "to/avibe"
    folder.mkdir(parents=True)
    with hub_module._alone(folder):
        assert get("avibe") == 1
    assert f"Another download into {folder} is running." in capsys.readouterr().err
    assert get("avibe") == 0


def test_a_file_that_became_shorter_does_not_block_the_next_run(published: SmallHub, get: Get, tmp_path: Path) -> None:
    """A hub that refuses to continue a file has its partial file deleted."""
    shard = first_shard(published)
    file = next(f for f in hub_module.list_repository("AvitoTech/avibe").files if f.name == shard)
    folder = tmp_path / "to/avibe"
    folder.mkdir(parents=True)
    (folder / f".{shard}.{file.digest[:16]}.part").write_bytes(b"x" * 700)
    published.refused_ranges = True
    assert get("avibe") == 1
    published.refused_ranges = False
    assert get("avibe") == 0


def test_another_repository_can_be_named(published: SmallHub, get: Get, written: Path, tmp_path: Path) -> None:
    """A fork of a model is downloaded in its place."""
    published.add("someone/fork", written / "avibe")
    del published.repositories["AvitoTech/avibe"]
    assert get("avibe=someone/fork") == 0
    assert (tmp_path / "to/avibe/config.json").exists()


@pytest.mark.parametrize("word", ["avibo", "avibe=fork", "avibe=../x", "avibe=a/b/c", "--from"])
def test_words_that_are_no_model_are_refused(get: Get, capsys: Screen, word: str) -> None:
    """Before anything is asked of the network."""
    with pytest.raises(SystemExit) as caught:
        get(word)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_a_folder_that_no_settings_file_can_hold_is_refused(capsys: Screen) -> None:
    """Blanks and quotes read differently for Docker, systemd and python-dotenv."""
    assert main(["--to", "/srv/my models"]) == 1
    assert "no blanks" in capsys.readouterr().err


def test_progress_has_speed_and_time_left() -> None:
    """Bytes of an earlier run count as done, and not as speed."""
    times = iter([0.0, 1.0, 100.0])
    out = io.StringIO()
    progress = Progress("avibe", 2_000_000_000, out, lambda: next(times))
    progress.report("a", 1_000_000_000)
    progress.report("a", 500_000_000)
    assert out.getvalue() == "==> avibe: 1.50 GB of 2.00 GB, 5.0 MB/s, 1 min 40 s left\n"


@pytest.mark.slow
def test_the_stated_memory_is_what_the_budget_needs(tmp_path: Path) -> None:
    """A card of the stated size holds one context beside weights and steps, and one 2 GB smaller does not."""
    from dataclasses import replace

    from config import load_settings
    from engine.loading.cache_size import with_cache_sizes
    from engine.loading.memory_budget import estimate_budget
    from engine.loading.step_memory import gpu_reserve
    from models.selection import engine_config
    from tests.sparse_checkpoints import sparse_text, sparse_vision

    specs = {"avibe": sparse_text(tmp_path / "avibe"), "avision": sparse_vision(tmp_path / "avision")}
    gpu = [replace(spec, device="cuda:0", dtype="float16") for spec in specs.values()]
    limits = engine_config(load_settings({"DEVICE": "cuda"}, None, lambda: True), "cuda")
    for wanted, stated in ((gpu[:1], MODELS["avibe"].gpu_gb), (gpu[1:], MODELS["avision"].gpu_gb), (gpu, BOTH_GPU_GB)):
        for size, fits in ((stated, True), (stated - 2, False)):
            total = size * 10**9
            sized = with_cache_sizes([(spec, limits) for spec in wanted], 0, lambda _, total=total: total, lambda: None)
            assert (sum(estimate_budget(*one).total for one in sized) <= total - gpu_reserve(total)) is fits
    for name, spec in specs.items():
        assert round((spec.model_dir / "model.safetensors").stat().st_size / 1e9, 1) == MODELS[name].disk_gb
