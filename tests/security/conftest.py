"""Shared by the tests of published vulnerabilities: a process without connections, encoded images, tiny checkpoints."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the addresses that this process looked up or connected to from now on; each attempt fails."""
    asked: list[object] = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError("this test opens no connection")

    monkeypatch.setattr(socket.socket, "connect", lambda self, address: refuse(address))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    return asked


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """Encode an image of a size and a format; frames: the sizes of further frames."""

    def make(size: tuple[int, int] = (64, 48), kind: str = "PNG", frames: tuple[tuple[int, int], ...] = ()) -> bytes:
        buffer = BytesIO()
        more = {"save_all": True, "append_images": [Image.new("RGB", frame) for frame in frames]} if frames else {}
        Image.new("RGB", size, "red").save(buffer, kind, **more)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def data_url(encoded: Callable[..., bytes]) -> str:
    """A good image as a client of /v1 sends it."""
    return f"data:image/png;base64,{base64.b64encode(encoded()).decode()}"


@pytest.fixture
def text_checkpoint(tmp_path: Path) -> Path:
    """A tiny checkpoint of Avibe, to be tampered with."""
    return write_text_checkpoint(tmp_path / "avibe")


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of Avision. Not to be changed."""
    return write_vision_checkpoint(tmp_path_factory.mktemp("avision"))
