"""What holds for every test: no test, and no process a test starts, reads the operator's `.env`.

Fixtures: `app` and `client` over two scripted models (`avibe`, `avision`); `settings` may be replaced by a module.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

os.environ["ENV_FILE"] = os.devnull
# Before the first import of Triton, which reads it: without a card its kernels run in the interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.needs", "tests.silence", "tests.repeats"]

# No property is about time: on a busy machine any example may take long.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Modules and tests live to the end. To look for garbage among them took a sixth of a run's processor time.
gc.disable()


def pytest_collection_finish(session):
    """Collect garbage from here on, and only among what the tests make; applications of these are made quickly."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()
    if "flask" in sys.modules:
        from tests.quick_apps import keep_compiled

        keep_compiled()


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory):
    """A folder for the database of all tests that do not mind each other's keys; made once, since that takes time."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def environ(state_dir):
    """The variables of `settings`; limits are off, except in the tests of limits."""
    return {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "STATE_DIR": str(state_dir)}


# Tests that need no application do not pay for its imports.
@pytest.fixture(name="settings")
def settings_of_a_service(environ):
    """Settings of a development service, from `environ` alone."""
    from config import load_settings

    return load_settings(environ, None)


@pytest.fixture
def models():
    """Both models, scripted and ready."""
    from tests.fakes import scripted_models

    return scripted_models()


@pytest.fixture
def avibe(models):
    """The scripted text model."""
    return models.get("avibe")


@pytest.fixture
def avision(models):
    """The scripted image model."""
    return models.get("avision")


@pytest.fixture
def machine():
    """A machine without a GPU."""
    from tests.fakes import FakeMachine

    return FakeMachine()


@pytest.fixture(scope="session")
def quick_apps():
    """All applications share what Flask compiles; where no collected module imports Flask, from here on."""
    from tests.quick_apps import keep_compiled

    keep_compiled()


@pytest.fixture
def app(settings, models, machine, quick_apps):
    """The application over the scripted models."""
    from app_production import create_app

    return create_app(settings, models, machine)


@pytest.fixture
def client(app):
    """A client that needs no socket."""
    return app.test_client()
