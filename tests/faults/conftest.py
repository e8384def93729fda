"""The real service under faults: started once, and again only where a fault ends it."""

from __future__ import annotations

import pytest

from tests.e2e.demo_service import LOADED_WITHIN, SETTINGS, ready
from tests.e2e.gunicorn_process import GunicornProcess, until
from tests.faults.faulty import Faulty

LIMITS = {"REQUEST_TIMEOUT": "3", "QUEUE_TIMEOUT": "3", "STALL_SECONDS": "60", "SEND_TIMEOUT": "5"}


def begin(folder, **settings):
    """Return a server that has served one request of each kind; to be used as a context."""
    process = GunicornProcess(folder, app="tests.faults.faulty_app:app", **SETTINGS | LIMITS | settings)
    try:
        until(lambda: ready(process), patience=LOADED_WITHIN)
        Faulty(process).warm_up()
    except BaseException:
        process.__exit__()
        raise
    return process


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A service that no test ends for good."""
    with begin(tmp_path_factory.mktemp("faults")) as process:
        yield process


@pytest.fixture
def service(server):
    """The service, with faults to inject; none is left to the next test."""
    faulty = Faulty(server)
    faulty.heal()
    yield faulty
    faulty.heal()


@pytest.fixture
def own_service(tmp_path):
    """A service that its test may end."""
    with begin(tmp_path) as process:
        yield Faulty(process)
