"""The end of a run that goes on for ever: no continuous integration waits for it, and the stacks say where it stands.

A test that takes longer than `faulthandler_timeout` ends its process of pytest-xdist, which prints every stack; the run
names it and goes on. What is left is the process that hears the others: once nothing was reported for a third longer
than a test may take, because a process neither works nor ends, this one prints its stacks and ends with status 1.
"""

from __future__ import annotations

import faulthandler
import sys

import pytest


class Silence:
    """Begins to wait anew at each report."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._wait()

    def _wait(self) -> None:
        faulthandler.dump_traceback_later(self._seconds, file=sys.__stderr__ or 2, exit=True)

    # A test begins, one of its phases is over, or a process has ended; after the last of these the run has to end too.
    def pytest_runtest_logstart(self) -> None:
        self._wait()

    def pytest_runtest_logreport(self) -> None:
        self._wait()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self) -> None:
        self._wait()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let those that build an image or soak a card take their time."""
    if item.get_closest_marker("deploy") or item.get_closest_marker("gpu"):
        faulthandler.cancel_dump_traceback_later()


def pytest_configure(config: pytest.Config) -> None:
    limit = float(config.getini("faulthandler_timeout") or 0)
    if limit and config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Silence(limit * 4 / 3))
