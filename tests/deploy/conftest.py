"""The machines that `deploy.sh production` and its companions are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

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
