"""The markers `needs` and `linux`: what a test needs of the system, itself or through a script.

`@pytest.mark.needs("nginx", "openssl")` names programs of the table in deploy/lib/system_packages.sh, which has the
package of each. `-m "not needs"` runs what needs none of them; `--leave-out "nginx openssl"` leaves out the tests that
need one of these. A test marked `linux` uses /proc, systemd's protocol or GNU tools, and is left out on other systems.
What is left out is listed at the end of a run.
"""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from tests.system_programs import TABLE, read_table

LINUX = "Linux"


class LeftOut:
    """What this run leaves out: the number of tests, and of those that need each program, or Linux."""

    def __init__(self) -> None:
        self.tests = 0
        self.by_need: Counter[str] = Counter()


LEFT_OUT = pytest.StashKey[LeftOut]()
NEEDED = pytest.StashKey[set[str]]()


def needs(item: pytest.Item) -> set[str]:
    """Return the programs that a test needs, and Linux where it needs that."""
    linux = {LINUX} if item.get_closest_marker("linux") else set()
    return linux | {name for mark in item.iter_markers("needs") for name in mark.args}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("system programs")
    group.addoption("--list-needs", action="store_true", help="name the programs that the selected tests need")
    group.addoption("--leave-out", default="", metavar="PROGRAMS", help="leave out tests that need one of these")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): drives these system programs; see tests/needs.py")
    config.addinivalue_line("markers", "linux: uses what other systems do not have; see tests/needs.py")
    config.stash[LEFT_OUT] = LeftOut()
    config.stash[NEEDED] = set()


# Last, so that only what -k and -m have selected counts.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse programs that the table lacks, and leave out the tests that need one of --leave-out."""
    config.stash[NEEDED] = {name for item in items for name in needs(item)} - {LINUX}
    if unknown := config.stash[NEEDED] - {row.program for row in read_table()}:
        raise pytest.UsageError(f"{', '.join(sorted(unknown))}: no such program in {TABLE.name}")
    missing = set(config.getoption("leave_out").split()) | (set() if sys.platform == "linux" else {LINUX})
    if left := [item for item in items if needs(item) & missing]:
        config.stash[LEFT_OUT].tests = len(left)
        config.stash[LEFT_OUT].by_need.update(name for item in left for name in needs(item) & missing)
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if not needs(item) & missing]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test at once, and say why, where a program that it needs is missing."""
    if missing := needs(item) & {row.program for row in read_table() if not row.here}:
        names = ", ".join(sorted(missing))
        pytest.fail(f"{names} not installed: `./deploy.sh test` installs it, `--leave-out` does without", pytrace=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what a worker of pytest-xdist has left out to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        left = session.config.stash[LEFT_OUT]
        session.config.workeroutput["left_out"] = left.tests, dict(left.by_need)


# Every worker collects every test, so one of them speaks for all.
@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    left = node.config.stash[LEFT_OUT]
    left.tests, by_need = getattr(node, "workeroutput", {}).get("left_out", (left.tests, left.by_need))
    left.by_need = Counter(by_need)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the selected tests need where that was asked, and what this run has left out."""
    if config.getoption("list_needs"):
        for name in sorted(config.stash[NEEDED]):
            terminalreporter.write_line(f"needs {name}")
    left = config.stash[LEFT_OUT]
    if left.tests:
        terminalreporter.section("left out", yellow=True)
        for name, number in sorted(left.by_need.items()):
            terminalreporter.write_line(f"{name}: {number} tests need it")
        packages = sorted({row.package for row in read_table() if row.program in left.by_need})
        terminalreporter.write_line(f"{left.tests} tests were left out for want of what is missing here.")
        if packages:
            terminalreporter.write_line(f"Debian and Ubuntu have these as packages: {' '.join(packages)}")
