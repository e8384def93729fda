"""What holds for every test: no test, and no process a test starts, reads the operator's `.env`.

Fixtures: `app` and `client` over two scripted models (`avibe`, `avision`); `settings` may be replaced by a module.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ["ENV_FILE"] = os.devnull
# Before the first import of Triton, which reads it: without a card its kernels run in the interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest

pytest_plugins = ["tests.needs"]

# Modules and tests live to the end. To look for garbage among them took a sixth of a run's processor time.
gc.disable()


def pytest_collection_finish(session):
    """Collect garbage from here on, and only among what the tests make."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory):
    """A folder for the database of all tests that do not mind each other's keys; made once, since that takes time."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def environ(state_dir):
    """The variables of `settings`; limits are off, except in the tests of limits."""
    return {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "STATE_DIR": str(state_dir)}


# Tests that need no application do not pay for its imports.
@pytest.fixture
def settings(environ):
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
def compiled_templates():
    """What Jinja has compiled for one application, kept for the next; it takes longer than most tests."""
    from jinja2 import BytecodeCache

    class Compiled(BytecodeCache):
        def __init__(self):
            self.code = {}

        def load_bytecode(self, bucket):
            if bucket.key in self.code:
                bucket.bytecode_from_string(self.code[bucket.key])

        def dump_bytecode(self, bucket):
            self.code[bucket.key] = bucket.bytecode_to_string()

    return Compiled()


@pytest.fixture
def app(settings, models, machine, compiled_templates):
    """The application over the scripted models."""
    from app_production import create_app

    app = create_app(settings, models, machine)
    app.jinja_env.bytecode_cache = compiled_templates
    return app


@pytest.fixture
def client(app):
    """A client that needs no socket."""
    return app.test_client()
