"""Tiny random checkpoints, written and loaded once per session; tests that change a folder copy it first."""

from __future__ import annotations

import shutil
from io import BytesIO

import pytest

# The fixtures that need torch, transformers or PIL import them, so that tests of the bookkeeping do not load them.


def ignore(progress):
    """Ignore a progress report."""


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A Qwen3 checkpoint with its tokenizer beside the weights. Read-only."""
    from tests.checkpoints import write_text_checkpoint

    return write_text_checkpoint(tmp_path_factory.mktemp("avibe"))


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory):
    """A Qwen2.5-VL checkpoint. Read-only."""
    from tests.checkpoints import write_vision_checkpoint

    return write_vision_checkpoint(tmp_path_factory.mktemp("avision"))


@pytest.fixture(scope="session")
def text_model(text_folder):
    """The loaded text checkpoint. Read-only."""
    from engine.loading.loader import load_model
    from tests.checkpoints import text_spec

    return load_model(text_spec(text_folder), ignore)


@pytest.fixture(scope="session")
def vision_model(vision_folder):
    """The loaded vision checkpoint. Read-only."""
    from engine.loading.loader import load_model
    from tests.checkpoints import vision_spec

    return load_model(vision_spec(vision_folder), ignore)


@pytest.fixture(scope="session")
def kernels():
    """The compiled kernels; a machine that runs the tests has a compiler and a supported processor."""
    from engine.model.kernels.library import load_kernels

    loaded = load_kernels()
    assert loaded is not None
    return loaded


@pytest.fixture(scope="session", params=["torch", pytest.param("kernels", marks=pytest.mark.needs("cc"))])
def maybe_kernels(request):
    """None for torch alone, and the kernels: the two ways in which models run on the CPU."""
    return request.getfixturevalue("kernels") if request.param == "kernels" else None


@pytest.fixture
def text_copy(text_folder, tmp_path):
    """A copy of the text checkpoint, for tests that change it."""
    return shutil.copytree(text_folder, tmp_path / "avibe")


@pytest.fixture
def vision_copy(vision_folder, tmp_path):
    """A copy of the vision checkpoint, for tests that change it."""
    return shutil.copytree(vision_folder, tmp_path / "avision")


@pytest.fixture(scope="session")
def make_image():
    """Return a function that makes a PNG of a given size, different for each seed."""
    from PIL import Image

    from engine.types import EncodedImage

    def make(width, height, seed=0):
        noise = Image.radial_gradient("L").resize((width, height)).rotate(seed * 40)
        data = BytesIO()
        Image.merge("RGB", (noise, noise.point(lambda value: (value + seed) % 256), noise)).save(data, "PNG")
        return EncodedImage(data.getvalue(), width, height)

    return make
