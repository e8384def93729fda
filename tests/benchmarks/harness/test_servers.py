"""Servers are started, awaited, and stopped with their children."""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.harness.servers import Server, demo, ours, running, transformers_serve, under_a_lock, vllm
from config import load_settings
from settings.rules import DEMO

FILES = Server("files", (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}"), "/")
BROKEN = Server("broken", (sys.executable, "-c", "raise SystemExit('no model here')"), "/")


def test_a_server_runs_as_long_as_the_block(tmp_path: Path) -> None:
    """It answers inside, and its port is free afterwards."""
    with running(FILES, tmp_path / "log") as address, urllib.request.urlopen(f"{address}/README.md") as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address)


def test_a_server_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    """Its output is kept."""
    with pytest.raises(RuntimeError, match="did not become ready"), running(BROKEN, tmp_path / "log"):
        pass
    assert "no model here" in (tmp_path / "log").read_text()


def test_each_server_has_its_targets() -> None:
    """Text and images have their routes; a server without images has no target for them."""
    text, vision = Path("t"), Path("v")
    own, chat = ours("ours", text, vision, 1024, chat=False), ours("ours", text, None, 1024)
    lock, with_images = under_a_lock("lock", text, None, 1024), under_a_lock("lock", text, vision, 1024)
    peers = [vllm(Path("vllm"), text, 0, 1024), transformers_serve(Path("transformers"), text)]
    at = "http://127.0.0.1:1"
    assert [own.target(at, images).path for images in (False, True)] == [
        "/api/v1/text/generate",
        "/api/v1/image/analyze",
    ]
    assert chat.target(at, images=False).path == "/v1/chat/completions"
    assert [server.target(at, images=True) for server in (chat, lock, *peers)] == [None] * 4
    assert [server.target(at, images=False).model for server in peers] == ["m", "t"]
    assert with_images.target(at, images=True).model == "avision"
    assert with_images.target(at, images=False).path == lock.target(at, images=False).path


def test_the_demo_is_served_whatever_the_shell_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that somebody has exported must not change what is measured without a word."""
    monkeypatch.setenv("VIBE_MODEL_DIR", "/somewhere/else")
    monkeypatch.setenv("MAX_NUM_SEQS", "3")
    environ = {**os.environ, **demo("proof", "app_production:app").env}
    found = load_settings(environ, None)
    assert found.model.vibe_model_dir == DEMO
    assert found.engine.max_num_seqs == load_settings({"DEVICE": "cpu"}, None).engine.max_num_seqs
