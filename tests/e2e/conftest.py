"""Servers for the tests of this folder, ended with the test that started them."""

from contextlib import ExitStack

import pytest

from tests.e2e.demo_service import start
from tests.e2e.gunicorn_process import GunicornProcess


@pytest.fixture
def gunicorn(tmp_path):
    """Start a Gunicorn with the given settings, once or more often in one test."""
    with ExitStack() as servers:

        def start(**settings):
            folder = tmp_path / f"server-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return servers.enter_context(GunicornProcess(folder, **settings))

        yield start


@pytest.fixture(scope="session")
def demo_server(tmp_path_factory):
    """The real service with both demo models, ready; one for all tests that change nothing about it."""
    with start(tmp_path_factory.mktemp("demo")) as process:
        yield process
