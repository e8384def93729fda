"""How a real Gunicorn starts: it answers while it loads, and says in one sentence why it cannot."""

import os
import signal

import pytest

from telemetry.version import RELEASE, VERSION
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.slow


def test_the_log_says_what_starts(gunicorn):
    """Version and release, before the worker boots, so that the log alone shows which one failed."""
    server = gunicorn()
    server.answering()
    before, _, _ = server.log().partition("Booting worker")
    assert before.count(f"Avito AI API {VERSION}, release {RELEASE}, is starting.") == 1


def test_answers_while_the_models_load(gunicorn):
    """HTTP answers before anything is loaded, and reports that until it is."""
    server = gunicorn()
    assert server.answering()["ready"] is False
    server.say("load")
    assert server.ready()


def test_failed_load_ends_the_service_with_one_sentence(gunicorn):
    """A checkpoint that cannot be loaded ends master and worker with a status, once, without a traceback."""
    server = gunicorn()
    server.answering()
    server.say("load", "broken")
    assert server.ended() == 3
    log = server.log()
    assert log.count("The service cannot start: VIBE_MODEL_DIR=/models: the checkpoint is broken.") == 1
    assert log.count("Booting worker") == 1
    assert "Traceback" not in log


def test_application_that_refuses_to_start_says_why_once(gunicorn, tmp_path):
    """A refusal before the load, such as a missing folder, ends the service in the same way."""
    server = gunicorn(TINY_FOLDER=str(tmp_path))
    (tmp_path / "refuse").touch()
    assert server.ended() == 3
    log = server.log()
    assert log.count("The service cannot start: VIBE_MODEL_DIR=/models: there is no such folder.") == 1
    assert "Traceback" not in log


def test_wrong_settings_stop_the_start_with_all_mistakes(gunicorn):
    """Every mistake in the settings is printed and the status is 2, before anything listens."""
    server = gunicorn(WORKERS="2", LOG_LEVEL="loud")
    assert server.ended() == 2
    log = server.log()
    assert "WORKERS=2: expected 1" in log
    assert "LOG_LEVEL='loud': expected DEBUG or INFO" in log
    assert "Traceback" not in log
    assert "Listening" not in log


def test_unwritable_log_file_stops_the_start(gunicorn, tmp_path):
    """A log file that cannot be opened although its folder may be written is one clear sentence, too."""
    server = gunicorn(LOG_FILE=f"{tmp_path}/{'x' * 300}")
    assert server.ended() != 0
    assert "LOG_FILE=" in server.log()
    assert "Traceback" not in server.log()


def test_warnings_about_the_settings_are_in_the_log(gunicorn, tmp_path):
    """A misspelt name in `.env` is named in the log together with the setting it resembles."""
    env_file = tmp_path / "settings.env"
    env_file.write_text("RATE_LIMIT_PER_MINUT=5\n")
    server = gunicorn(ENV_FILE=str(env_file))
    server.answering()
    assert "RATE_LIMIT_PER_MINUT in" in server.log()
    assert "did you mean RATE_LIMIT_PER_MINUTE?" in server.log()


def test_a_production_that_is_open_to_a_network_says_so_once(gunicorn):
    """In one line of the log, with the setting that closes it; with keys there is none."""
    server = gunicorn(ENVIRONMENT="production", HOST="0.0.0.0")
    server.answering()
    assert server.log().count("may use the service: AUTH=keys asks each client for a key, see docs/keys.md") == 1
    assert "Everybody who reaches port" in server.log()


def test_killed_worker_comes_back_and_answers_while_it_loads(gunicorn):
    """After kill -9 a new worker answers at once, loading, and becomes ready by itself."""
    server = gunicorn()
    server.say("load")
    first = server.ready()
    (server.folder / "load").unlink()
    os.kill(first["pid"], signal.SIGKILL)
    second = until(lambda: (state := server.state()) and state["pid"] != first["pid"] and state)
    assert second["ready"] is False
    server.say("load")
    assert server.ready()["master"] == first["master"]


def test_there_is_always_one_worker(gunicorn):
    """Neither SIGTTIN nor Gunicorn's own variable brings a second worker, which would load the weights again."""
    server = gunicorn(GUNICORN_CMD_ARGS="--workers 2")
    server.answering()
    server.signal(signal.SIGTTIN)
    until(lambda: server.log().count("This service runs one worker; the request for 2 is ignored.") == 2)
    assert server.log().count("Booting worker") == 1
