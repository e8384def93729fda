"""The health check of containers reports the state of the service on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from werkzeug.serving import BaseWSGIServer

from config import Settings, load_settings
from deploy.health_check import check
from engine.types import Status
from models import ModelSet

ROOT = Path(__file__).parents[2]


def settings_with(port: int, host: str = "127.0.0.1") -> Settings:
    return load_settings({"HOST": host, "PORT": str(port)}, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_ready_service_is_healthy(server: BaseWSGIServer, host: str) -> None:
    """Both models are ready, on any address of the settings."""
    assert check(settings_with(server.server_port, host)) == (True, "ready")


def test_a_stalled_model_is_unhealthy_with_its_reason(server: BaseWSGIServer, models: ModelSet) -> None:
    """Readiness counts, not a response alone, and the line repeats its reason."""
    models.get("avibe").become(Status.STALLED)
    assert check(settings_with(server.server_port)) == (False, "stalled: The model is stalled.")


def test_no_service_is_unhealthy(server: BaseWSGIServer) -> None:
    """If nothing listens, the line says so, with the address."""
    port = server.server_port
    server.shutdown()
    server.server_close()
    assert check(settings_with(port)) == (False, f"no answer from http://127.0.0.1:{port}/api/health/ready")


@pytest.mark.parametrize(("port_offset", "status", "line"), [(0, 0, "ready"), (1, 1, "no answer from")])
def test_the_exit_status_is_what_the_engine_of_containers_reads(
    server: BaseWSGIServer, port_offset: int, status: int, line: str
) -> None:
    """Run as in the image: 0 or 1, and one line."""
    environ = {**os.environ, "HOST": "127.0.0.1", "PORT": str(server.server_port if not port_offset else 1)}
    command = [sys.executable, "-m", "deploy.health_check"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith(line)
