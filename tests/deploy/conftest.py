"""The simulated machines for `deploy.sh production` and related scripts, and replacements of programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from werkzeug.serving import BaseWSGIServer, make_server

from app_production import create_app
from config import load_settings
from models import ModelSet
from tests.deploy.podman import IMAGE, Podman
from tests.deploy.production_box import ProductionBox


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Replace a program on the PATH with a shell script of this body."""

    def install(name: str, script: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


@pytest.fixture
def server(models: ModelSet) -> Iterator[BaseWSGIServer]:
    """The service over scripted models, on a free port; two generations a minute are within the budget."""
    app = create_app(load_settings({"RATE_LIMIT_PER_MINUTE": "2"}, None), models)
    serving = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    yield serving
    serving.shutdown()
    thread.join(60)
    serving.server_close()


@pytest.fixture
def bare(tmp_path: Path) -> ProductionBox:
    """A machine without the service."""
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
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for ai.example, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    files = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ai.example"]
        + ["-addext", "subjectAltName=DNS:ai.example", "-out", files[0], "-keyout", files[1]],
        check=True,
        capture_output=True,
        timeout=600,
    )
    return files


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """A container engine with its own storage, which holds the base image."""
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
