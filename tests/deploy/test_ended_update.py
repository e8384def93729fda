"""`deploy.sh update` that is ended, by a lost connection for instance, or killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.deploy.production_box import ProductionBox
from tests.e2e.gunicorn_process import until

pytestmark = [pytest.mark.slow, pytest.mark.linux]

# In place of pip: waits, and notes at SIGTERM whether the new tree is still there.
WAIT = """
trap 'ls {prefix}/update.*/tree/deploy.sh >"{control}/tree"; exit 1' TERM
echo $$ >"{control}/pip"; sleep 600 & wait ;;
"""


@contextmanager
def installing(box: ProductionBox, tree: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Begin an update to another tree and go on where its pip waits; pip does not outlive the block."""
    shutil.copytree(box.root, tree, symlinks=True)
    with (tree / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    venv_python, noted = box.venv_python.read_text(), box.control / "pip"
    box.venv_python.write_text(venv_python.replace("; exit 0 ;;", WAIT.format(prefix=box.prefix, control=box.control)))
    try:
        with box.started("update", str(tree)) as process:
            until(lambda: noted.exists() and noted.read_text().endswith("\n"), 120)
            yield process
    finally:
        box.venv_python.write_text(venv_python)
        if noted.exists():
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(int(noted.read_text())), signal.SIGKILL)


def folders(box: ProductionBox) -> list[Path]:
    return list(box.prefix.glob("update.*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_an_update_runs_ends_before_its_tree(box: ProductionBox, tmp_path: Path, number: int, status: int) -> None:
    """The new tree's own deploy.sh goes back, pip is ended, and then the folder is removed."""
    before = box.current
    with installing(box, tmp_path / "next") as process:
        os.kill(process.pid, number)
        assert process.wait(120) == status
        assert (box.control / "tree").read_text().count("/tree/deploy.sh") == 1
        assert not Path("/proc", (box.control / "pip").read_text().strip()).exists()
    assert folders(box) == []
    assert box.current == box.serving == before


def test_what_a_killed_update_has_left_is_removed_by_the_next(box: ProductionBox, tmp_path: Path) -> None:
    """Once what it had started, which works in that folder, has ended, too."""
    before, tree = box.current, tmp_path / "next"
    with installing(box, tree) as process:
        process.kill()
        process.wait(60)
        refused = box.run("update", str(tree))
        assert (refused.returncode, "Another update is running" in refused.stderr) == (1, True)
        assert (folders(box)[0] / "tree/deploy.sh").exists()
    until(lambda: box.run("update", str(tree)).returncode == 0, 120)
    assert folders(box) == []
    assert box.current == box.serving != before
