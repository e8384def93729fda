"""The machines that `deploy.sh production` and its companions are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.podman import IMAGE, Podman
from tests.deploy.production_box import ProductionBox


@pytest.fixture
def bare(tmp_path: Path) -> ProductionBox:
    """A machine with nothing of the service."""
    return ProductionBox(tmp_path)


@pytest.fixture(scope="session")
def installed_once(tmp_path_factory: pytest.TempPathFactory) -> ProductionBox:
    box = ProductionBox(tmp_path_factory.mktemp("production"))
    done = box.production()
    assert done.returncode == 0, done.stdout + done.stderr
    box.snapshot()
    return box


@pytest.fixture
def box(installed_once: ProductionBox) -> ProductionBox:
    """A machine where one release serves."""
    installed_once.reset()
    return installed_once


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """A container engine of the tests' own, with the base of the image in it."""
    engine = Podman(tmp_path_factory.mktemp("podman"))
    engine.import_base()
    yield engine
    engine.reset()


@pytest.fixture(scope="session")
def image(podman: Podman) -> str:
    """The CPU image, built from the tree."""
    done = podman.build("cpu", IMAGE)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return IMAGE
