"""A run of pytest that would go on for ever ends, and says where it stood."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
HANGS = "import threading\ndef test_good(): pass\ndef test_endless(): threading.Event().wait()\n"
GOOD = "import pathlib\ndef test_good(): pathlib.Path('passed').touch()\n"
# In one process of pytest-xdist, once its tests are over.
NEVER_ENDS = """
import pathlib, threading
def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        pathlib.Path("over").touch()
        threading.Event().wait()
"""


def run(
    folder: Path, tests: str, hooks: str = "", plugin: str = "xdist", seconds: int = 2
) -> subprocess.CompletedProcess[str]:
    """Run tests in two processes, with so many seconds for each test."""
    (folder / "test_some.py").write_text(tests)
    (folder / "conftest.py").write_text(f'import sys; sys.path.insert(0, "{ROOT}")\n{hooks}')
    (folder / "pytest.ini").write_text(
        f"[pytest]\nfaulthandler_timeout = {seconds}\nfaulthandler_exit_on_timeout = true\n"
    )
    command = [sys.executable, "-m", "pytest", "--disable-plugin-autoload", "-p", "no:cacheprovider"]
    command += ["-p", plugin, "-p", "xdist", "-n", "2", "--dist", "worksteal"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_an_endless_test_fails_by_its_name_and_the_others_run(tmp_path: Path) -> None:
    """Every stack is printed first."""
    done = run(tmp_path, HANGS)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed" in done.stdout
    assert "crashed while running 'test_some.py::test_endless'" in done.stdout
    assert "in test_endless" in done.stderr


def test_a_process_that_never_ends_does_not_keep_the_run(tmp_path: Path) -> None:
    """Its tests are over, so no time of a test bounds it; the run ends, and not well."""
    done = run(tmp_path, GOOD, NEVER_ENDS, "tests.silence", seconds=15)  # in which both processes have started
    assert done.returncode == 1
    assert (tmp_path / "passed").exists()
    assert (tmp_path / "over").exists()
    assert "passed" not in done.stdout
    assert "in loop_once" in done.stderr


def test_the_suite_has_such_limits(pytestconfig: pytest.Config) -> None:
    """Longer than anything that a test itself waits for."""
    assert float(pytestconfig.getini("faulthandler_timeout")) == 900
    assert pytestconfig.getini("faulthandler_exit_on_timeout")
    assert pytestconfig.pluginmanager.has_plugin("tests.silence")
