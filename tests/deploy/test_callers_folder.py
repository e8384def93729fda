"""Paths that deploy.sh and deploy/backup.sh are given are meant from the folder in which they are called."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.checkpoints import write_text_checkpoint
from tests.deploy.hub_server import SmallHub, serving
from tests.deploy.production_box import ProductionBox

pytestmark = [pytest.mark.slow, pytest.mark.linux]


@pytest.mark.parametrize("source", ["deploy", "./deploy", "../here/deploy", "deploy.tar.gz"])
def test_update_takes_the_callers_tree(box: ProductionBox, tmp_path: Path, source: str) -> None:
    """And not what has the same name in the checkout."""
    before, here = box.current, tmp_path / "here"
    tree = here / "deploy"
    shutil.copytree(box.root, tree, symlinks=True)
    (tree / "config.py").write_text((tree / "config.py").read_text() + "# from elsewhere\n")
    if source.endswith(".gz"):
        shutil.make_archive(str(tree), "gztar", tree)
        box.tool("gzip", 'exec /bin/gzip "$@"')
    done = box.run("update", source, cwd=here)
    assert done.returncode == 0, done.stderr
    assert box.current == box.serving != before


def test_settings_get_the_callers_folders(box: ProductionBox, tmp_path: Path) -> None:
    """The service has a folder of its own; `demo` is no folder, whatever is there."""
    for name in ("models/avibe", "demo"):
        (tmp_path / name).mkdir(parents=True)
    words = ("VIBE_MODEL_DIR=models/avibe", "VIBE_TOKENIZER_DIR=./models/avibe", "VISION_MODEL_DIR=demo")
    done = box.run("production", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models/avibe"
    assert {f"VIBE_MODEL_DIR={folder}", f"VIBE_TOKENIZER_DIR={folder}", words[2]} <= set(box.settings)


def test_python_is_the_callers(box: ProductionBox) -> None:
    """A path is one from the folder of the call, a name one of PATH."""
    for python in ("bin/python3", "python3"):
        box.change()
        done = box.run("production", PYTHON=python, cwd=box.bin.parent)
        assert done.returncode == 0, done.stderr


@pytest.mark.needs("openssl")
def test_a_certificate_is_the_callers(box: ProductionBox, certificate: tuple[str, str]) -> None:
    """nginx gets its whole path."""
    box.tool("nginx", "echo nginx/1.22.1 >&2")
    file = Path(certificate[0])
    words = ("--domain", "ai.example", "--certificate", file.name, "--certificate-key", Path(certificate[1]).name)
    done = box.run("production", *words, cwd=file.parent)
    assert done.returncode == 0, done.stderr
    site = box.system / "etc/nginx/sites-available/avito-ai.conf"
    assert f"ssl_certificate {file.resolve()};" in site.read_text()


def test_models_come_to_the_callers_folder(tmp_path: Path) -> None:
    """And their settings into the file that is named from there."""
    hub, here = SmallHub(), tmp_path / "here"
    hub.add("AvitoTech/avibe", write_text_checkpoint(tmp_path / "published"))
    for folder in (here, tmp_path / "box"):
        folder.mkdir()
    box = ProductionBox(tmp_path / "box")
    box.link_service()
    with serving(hub):
        done = box.run("models", "avibe", "--to", "new", cwd=here, HF_ENDPOINT=hub.url, ENV_FILE="my.env")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "new/avibe/config.json").exists()
    assert f"VIBE_MODEL_DIR={here}/new/avibe\n" in (here / "my.env").read_text()


def test_tests_are_the_callers(tmp_path: Path) -> None:
    """Words that are no paths stay as they are."""
    box = ProductionBox(tmp_path)
    (tmp_path / "part").mkdir()
    (tmp_path / "part/test_x.py").touch()
    words = ("part/test_x.py::test_y", "-k", "part", "tests/routes")
    assert box.run("test", "--yes", *words, cwd=tmp_path).returncode == 0
    assert box.calls()[-1].startswith(f"-m pytest {tmp_path}/part/test_x.py::test_y -k part tests/routes")


def test_a_backup_is_the_callers(box: ProductionBox, tmp_path: Path) -> None:
    """It is made, checked and restored there."""
    box.tool("rm", f'exec {(box.bin / "rm").resolve()} "$@"')
    for words in (("create", "mine.tar.gz"), ("check", "mine.tar.gz"), ("restore", "mine.tar.gz", "--files-only")):
        done = subprocess.run(
            ["bash", str(box.root / "deploy/backup.sh"), *words],
            cwd=tmp_path,
            env=box.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine.tar.gz").exists()
