"""The start of the application: `app` for Gunicorn, and the development server until Ctrl+C."""

import http.client
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.serving import make_server

import app_production
from app_production import serve
from engine.errors import StartError
from models import ModelSet
from tests.fakes import PATIENCE, ScriptedBackend

ROOT = Path(__file__).parents[1]


class BrokenBackend(ScriptedBackend):
    """A model that cannot be loaded."""

    def start(self):
        raise StartError("VIBE_MODEL_DIR: the checkpoint is broken.")


@pytest.fixture(autouse=True)
def signals():
    """Restore the signal handlers of the test run."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture
def server(app):
    """The development server on a free port, not yet serving."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    yield server
    server.server_close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_development_server_answers_until_it_is_stopped(server, models, number, caplog):
    """It prints its address and answers; at a signal it finishes the admitted requests and exits with status 0."""
    caplog.set_level("INFO")
    statuses = []

    def visit():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.request("GET", "/api/health/ready")
        statuses.append(connection.getresponse().status)
        connection.close()
        os.kill(os.getpid(), number)

    visitor = threading.Thread(target=visit)
    visitor.start()
    assert serve(server, models, drain_seconds=7.0) == 0
    visitor.join(60)
    assert statuses == [200]
    assert 0 < models.get("avibe").stopped_with <= 7.0
    assert f"Serving on http://127.0.0.1:{server.port}" in caplog.text


def test_a_load_that_fails_ends_the_development_server(server, capsys):
    """It exits with status 1 and one sentence that says why, without a drain."""
    models = ModelSet({"avibe": BrokenBackend("avibe")})
    assert serve(server, models, drain_seconds=60.0) == 1
    assert capsys.readouterr().err == "VIBE_MODEL_DIR: the checkpoint is broken.\n"


def run(**environ):
    """Run the program and return the finished process."""
    everything = {**os.environ, "HOST": "127.0.0.1", **environ}
    command = [sys.executable, "app_production.py"]
    return subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_wrong_settings_end_the_program_with_status_2():
    """All of them are reported at once, before anything starts."""
    result = run(PORT="no port", THREADS="-1")
    assert result.returncode == 2
    assert "PORT=" in result.stderr
    assert "THREADS=" in result.stderr


@pytest.mark.slow
def test_a_missing_model_ends_the_program_with_status_1():
    """In production no demo replaces it; one sentence names the setting."""
    result = run(ENVIRONMENT="production", DEVICE="cpu", VIBE_MODEL_DIR="/nowhere", VISION_MODEL_DIR="demo")
    assert result.returncode == 1
    assert result.stderr.startswith("VIBE_MODEL_DIR=/nowhere")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_taken_port_ends_the_program():
    """A second server on the same port fails immediately."""
    with make_server("127.0.0.1", 0, Flask(__name__)) as holder:
        result = run(PORT=str(holder.port), DEVICE="cpu")
    assert result.returncode == 1
    assert f"Port {holder.port} is in use" in result.stderr


@pytest.mark.slow
def test_importing_builds_nothing():
    """`app` is built once, on first access, as Gunicorn does; other names raise AttributeError."""
    code = (
        "import app_production as a; assert 'app' not in vars(a); "
        "from app_production import app; assert app is a.app; print(type(app).__name__)"
    )
    everything = {**os.environ, "RATE_LIMIT_STORAGE": "redis://127.0.0.1:1/0"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=everything, capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stdout) == (0, "Flask\n"), result.stderr
    with pytest.raises(AttributeError):
        app_production.application  # noqa: B018
