"""`./deploy.sh development` with the real service behind it: what a user at a terminal sees and types."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.probe import bind_error
from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint
from tests.e2e.gunicorn_process import free_port, until
from tests.sandbox import Sandbox

pytestmark = pytest.mark.slow

PATIENCE = 90.0  # seconds for importing torch and loading two tiny models beside other tests


class Development:
    """One run of `deploy.sh development` in a session of its own, as a terminal gives it."""

    def __init__(self, box: Sandbox, **settings: str) -> None:
        self.box, self.port = box, str(free_port())
        self.settings = {"PORT": self.port, "DEVICE": "cpu", **settings}
        self.screen = box.root.parent / "screen"
        with self.screen.open("wb") as screen:
            self.process = subprocess.Popen(
                ["bash", str(box.root / "deploy.sh"), "development"],
                env=box.environ(**self.settings),
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def shows(self, text: str) -> bool:
        """Wait until the text is on the screen."""
        return bool(until(lambda: text in self.screen.read_text() or self.process.poll() is not None, PATIENCE))

    def run_again(self) -> subprocess.CompletedProcess[str]:
        """Type the same command at another terminal."""
        return self.box.run("development", **self.settings)

    def press_control_c(self) -> int:
        """Send the terminal's SIGINT to the foreground process group, and return the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE)

    def end(self) -> None:
        """Stop everything, whether the test passed or not."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)


@pytest.fixture
def box(tmp_path: Path) -> Sandbox:
    made = Sandbox(tmp_path)
    made.python()
    made.link_service()
    return made


@pytest.fixture
def development(box: Sandbox, tmp_path: Path) -> Iterator[Development]:
    write_text_checkpoint(tmp_path / "text")
    write_vision_checkpoint(tmp_path / "vision")
    folders = {"VIBE_MODEL_DIR": "text", "VIBE_TOKENIZER_DIR": "text", "VISION_MODEL_DIR": "vision"}
    run = Development(box, **{name: str(tmp_path / folder) for name, folder in folders.items()})
    yield run
    run.end()


def test_it_serves_until_control_c(development: Development) -> None:
    """The address is printed when the models answer; a second run finds it; Ctrl+C ends it all with status 0."""
    development.shows("==> Ready at")
    address = f"http://127.0.0.1:{development.port}"
    screen = development.screen.read_text()
    assert f"==> Ready at {address} (Ctrl+C stops it)" in screen
    assert "The models run on the CPU, as DEVICE=cpu asks." in screen
    assert "GPU" not in screen
    assert "0.00 of 0.00" not in screen
    assert "\\n" not in screen  # tables are shown row by row
    again = development.run_again()
    assert (again.returncode, again.stdout) == (0, f"==> Already running at {address}\n")
    assert development.press_control_c() == 0
    assert bind_error("127.0.0.1", int(development.port)) is None


def test_a_model_that_cannot_be_loaded_ends_it(box: Sandbox, tmp_path: Path) -> None:
    """The reason is on the screen, the exit status is not zero, and no address is promised."""
    (tmp_path / "empty").mkdir()
    run = Development(box, VIBE_MODEL_DIR=str(tmp_path / "empty"), VISION_MODEL_DIR="demo")
    try:
        assert run.process.wait(PATIENCE) != 0
    finally:
        run.end()
    screen = run.screen.read_text()
    assert "VIBE_MODEL_DIR" in screen
    assert "Ready at" not in screen
