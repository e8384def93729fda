"""Tiny random checkpoints, written once and loaded once; tests that change a folder copy it first."""

from __future__ import annotations

import shutil
from io import BytesIO

import pytest

# torch, transformers and PIL are imported by the fixtures that need them: the bookkeeping is tested without.


def ignore(progress):
    """Take a progress report and do nothing with it."""


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A Qwen3 checkpoint with its tokenizer beside the weights. Not to be changed."""
    from tests.checkpoints import write_text_checkpoint

    return write_text_checkpoint(tmp_path_factory.mktemp("avibe"))


@pytest.fixture(scope="session")
def vision_folder(tmp_path_factory):
    """A Qwen2.5-VL checkpoint. Not to be changed."""
    from tests.checkpoints import write_vision_checkpoint

    return write_vision_checkpoint(tmp_path_factory.mktemp("avision"))


@pytest.fixture(scope="session")
def text_model(text_folder):
    """The text checkpoint, loaded. Not to be changed."""
    from engine.loading.loader import load_model
    from tests.checkpoints import text_spec

    return load_model(text_spec(text_folder), ignore)


@pytest.fixture(scope="session")
def vision_model(vision_folder):
    """The vision checkpoint, loaded. Not to be changed."""
    from engine.loading.loader import load_model
    from tests.checkpoints import vision_spec

    return load_model(vision_spec(vision_folder), ignore)


@pytest.fixture(scope="session")
def kernels():
    """The compiled kernels; a machine that tests has a compiler, and a processor they are for."""
    from engine.model.kernels.library import load_kernels

    loaded = load_kernels()
    assert loaded is not None
    return loaded


@pytest.fixture(scope="session", params=["torch", pytest.param("kernels", marks=pytest.mark.needs("cc"))])
def maybe_kernels(request):
    """What the models compute with on the processor: torch alone, and the kernels."""
    return request.getfixturevalue("kernels") if request.param == "kernels" else None


@pytest.fixture
def text_copy(text_folder, tmp_path):
    """A copy of the text checkpoint, to be broken."""
    return shutil.copytree(text_folder, tmp_path / "avibe")


@pytest.fixture
def vision_copy(vision_folder, tmp_path):
    """A copy of the vision checkpoint, to be broken."""
    return shutil.copytree(vision_folder, tmp_path / "avision")


@pytest.fixture(scope="session")
def picture():
    """Make a PNG of a size, different for each seed."""
    from PIL import Image

    from engine.types import EncodedImage

    def make(width, height, seed=0):
        noise = Image.radial_gradient("L").resize((width, height)).rotate(seed * 40)
        data = BytesIO()
        Image.merge("RGB", (noise, noise.point(lambda value: (value + seed) % 256), noise)).save(data, "PNG")
        return EncodedImage(data.getvalue(), width, height)

    return make
