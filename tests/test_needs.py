"""The marker `needs`: its names are the table's, and a run says what it leaves out."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system_programs import read_table

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.needs("nginx", "openssl")
def test_proxy(): pass

@pytest.mark.needs("nginx")
def test_site(): pass

def test_plain(): pass
"""


def names_of_markers() -> set[str]:
    """Return every program that a marker in the tests names."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py")]
    trees = [ast.parse(text) for text in texts if "pytest.mark.needs" in text]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    marks = [call for call in calls if ast.unparse(call.func) == "pytest.mark.needs"]
    return {word.value for mark in marks for word in mark.args if isinstance(word, ast.Constant)}


def run(folder: Path, *arguments: str, tests: str = TESTS) -> subprocess.CompletedProcess[str]:
    """Run pytest over one file of tests."""
    (folder / "test_some.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", "--disable-plugin-autoload"]
    command += ["--rootdir", str(folder), "-p", "tests.needs", *arguments, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


def test_the_markers_name_exactly_the_programs_of_the_table() -> None:
    """What a test drives, deploy.sh installs; what deploy.sh installs, a test drives."""
    assert names_of_markers() == {row.program for row in read_table()}


@pytest.mark.slow
def test_a_program_that_the_table_lacks_is_refused(tmp_path: Path) -> None:
    """A mistyped marker would install nothing and leave nothing out."""
    done = run(tmp_path, tests=TESTS.replace("openssl", "opensll"))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "opensll: no such program in system_packages.sh" in done.stderr


@pytest.mark.slow
def test_the_programs_of_the_selected_tests_are_listed(tmp_path: Path) -> None:
    """deploy.sh reads these lines."""
    listed = run(tmp_path, "--collect-only", "--quiet", "--list-needs", "-k", "site or plain").stdout.splitlines()
    assert [line for line in listed if line.startswith("needs ")] == ["needs nginx"]


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
@pytest.mark.slow
def test_what_is_left_out_is_printed_last(tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Programs with the number of their tests, then the sum and the packages, then pytest's own line."""
    done = run(tmp_path, "--leave-out", "nginx openssl", *workers)
    *_, nginx, openssl, tests, packages, closing = done.stdout.splitlines()
    assert (nginx, openssl) == ("nginx: 2 tests need it", "openssl: 1 tests need it")
    assert tests.startswith("2 tests were left out")
    assert packages.endswith(": nginx openssl")
    assert " 1 passed" in closing


@pytest.mark.slow
def test_a_run_that_leaves_out_nothing_says_nothing(tmp_path: Path) -> None:
    """Without omissions there is no summary of them."""
    assert "left out" not in run(tmp_path, "--leave-out", "haproxy", "-k", "plain").stdout


@pytest.mark.slow
def test_what_only_linux_has_is_left_out_elsewhere(tmp_path: Path) -> None:
    """A Mac has no /proc and no GNU tools."""
    elsewhere = "import sys\nsys.platform = 'darwin'\n"
    tests = elsewhere + TESTS.replace("def test_plain", "@pytest.mark.linux\ndef test_plain")
    *_, linux, number, closing = run(tmp_path, "-k", "plain", tests=tests).stdout.splitlines()
    assert linux == "Linux: 1 tests need it"
    assert number.startswith("1 tests were left out")
    assert "deselected" in closing


@pytest.mark.slow
def test_a_missing_program_fails_its_tests_with_the_remedy(tmp_path: Path) -> None:
    """Never a silent skip: the message names the program."""
    missing = "import tests.system_programs as programs\nprograms.found = lambda name: None\n"
    done = run(tmp_path, tests=missing + TESTS)
    assert "nginx, openssl not installed: `./deploy.sh test` installs it" in done.stdout
    assert "1 passed, 2 errors" in done.stdout
