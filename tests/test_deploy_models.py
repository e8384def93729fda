"""`./deploy.sh models` as an operator runs it: into which folder, and into which settings file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints import write_text_checkpoint
from tests.deploy.hub_server import SmallHub, serving
from tests.deploy.production_box import ProductionBox

pytestmark = pytest.mark.slow

EXAMPLE = """\
PORT=9000
# Avibe's folder
#VIBE_MODEL_DIR=/mnt/data/avito/vibe/models
VIBE_TOKENIZER_DIR=/old
LOG_LEVEL=INFO
"""
# In place of the program that downloads: its folder must exist, and its settings are those of the real one.
STAND_IN = """
*"-m deploy.models"*) mkdir -p "$4/avibe"; echo "$*" >>"{log}"
    printf 'VIBE_MODEL_DIR=%s/avibe\\nVIBE_TOKENIZER_DIR=%s/avibe\\n' "${{8:-$4}}" "${{8:-$4}}" >"$6"; exit ;;
"""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[SmallHub]:
    hub = SmallHub()
    hub.add("AvitoTech/avibe", write_text_checkpoint(tmp_path / "published"))
    with serving(hub):
        yield hub


@pytest.fixture
def box(tmp_path: Path) -> ProductionBox:
    """A machine whose checkout holds the whole service."""
    made = ProductionBox(tmp_path / "box")
    made.link_service()
    (made.root / ".env.example").write_text(EXAMPLE)
    return made


@pytest.fixture(autouse=True)
def room(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()


@pytest.fixture
def quick_box(box: ProductionBox) -> ProductionBox:
    """The same machine, with a stand-in for the download."""
    cases = STAND_IN.format(log=box.log)
    box.venv_python.write_text(box.venv_python.read_text().replace('case "$*" in', f'case "$*" in {cases}', 1))
    return box


def with_folder(folder: Path) -> str:
    """Return the settings of EXAMPLE after the command."""
    return f"PORT=9000\n# Avibe's folder\nVIBE_MODEL_DIR={folder}\nVIBE_TOKENIZER_DIR={folder}\nLOG_LEVEL=INFO\n"


def test_a_user_gets_them_at_home_and_in_the_checkout(box: ProductionBox, hub: SmallHub) -> None:
    """Comment, order and all other lines of .env stay; only its owner can read it."""
    box.tool("id", "echo 1000")
    done = box.run("models", "avibe", HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = box.home / ".local/share/avito-ai/models/avibe"
    assert (folder / "config.json").exists()
    env = box.root / ".env"
    assert env.read_text() == with_folder(folder)
    assert env.stat().st_mode & 0o077 == 0
    assert "To use them: ./deploy.sh development" in done.stdout


def test_root_gets_them_for_the_service(quick_box: ProductionBox) -> None:
    """With the service installed its own settings are written, and not those of the checkout."""
    box = quick_box
    settings = box.system / "etc/avito-ai/.env"
    settings.parent.mkdir()
    settings.write_text(EXAMPLE)
    done = box.run("models", "avibe")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = box.system / "srv/avito-ai/models/avibe"
    assert settings.read_text() == with_folder(folder)
    assert not (box.root / ".env").exists()
    assert folder.stat().st_mode & 0o055 == 0o055  # the service's user reads it
    assert "To use them: ./deploy.sh production" in done.stdout


def test_another_folder_and_file_can_be_named(quick_box: ProductionBox, tmp_path: Path) -> None:
    """--to and ENV_FILE are used; a value in the environment that would win is warned of."""
    file, folder = tmp_path / "my.env", tmp_path / "disk"
    done = quick_box.run("models", "--to", str(folder), ENV_FILE=str(file), VIBE_MODEL_DIR="/other")
    assert done.returncode == 0, done.stdout + done.stderr
    assert file.read_text() == f"VIBE_MODEL_DIR={folder}/avibe\nVIBE_TOKENIZER_DIR={folder}/avibe\n"
    assert "VIBE_MODEL_DIR is set in the environment, which takes precedence" in done.stderr


def test_a_failed_download_leaves_the_settings_alone(box: ProductionBox) -> None:
    """The exit status is not 0, and the instructions for copying are on the screen."""
    done = box.run("models", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "Without a network:" in done.stderr
    assert not (box.root / ".env").exists()
