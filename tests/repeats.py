"""How often tests of random cases repeat: as each run of the suite has time for, or at length with `--long`."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="repeat random cases several times as often")


@pytest.fixture(scope="session")
def often(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Return the first of two numbers of repetitions, and the second in a long run."""
    return lambda usual, long: long if pytestconfig.getoption("long") else usual


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "seeds(usual, long): runs with so many values of `seed`; see tests/repeats.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (mark := metafunc.definition.get_closest_marker("seeds")) is not None:
        metafunc.parametrize("seed", range(mark.args[metafunc.config.getoption("long")]))
