"""The suites of client libraries against a real server: `python -m tests.clients [--cache FOLDER] [LIBRARY ...]`.

Each folder here that has a suite is one library: requirements.txt or package.json pin it, and it is installed into an
environment of its own below the cache folder, where a later run finds it; without one, into a temporary folder. Needs
the packages of the tests, a way to the package registries, and npm for the libraries of JavaScript.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.e2e.demo_service import start

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIBRARIES = sorted(path.parent.name for path in HERE.glob("*/suite.*"))
LONGEST = 1800.0  # seconds that one suite may take


@dataclass(frozen=True)
class Result:
    """How many tests passed, failed, failed as expected and were skipped; failures: by name; log: what was printed."""

    library: str
    passed: int
    failures: list[str]
    expected: int
    skipped: int
    seconds: float
    log: str


def main() -> int:
    """Run the suites that are named, or all; return how many have failures."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=", ".join(LIBRARIES))
    parser.add_argument("--cache", type=Path, help="the folder in which the environments stay")
    asked = parser.parse_args()
    if unknown := set(asked.libraries) - set(LIBRARIES):
        parser.error(f"no suite of {', '.join(sorted(unknown))}; there are {', '.join(LIBRARIES)}")
    with tempfile.TemporaryDirectory() as temporary:
        cache = (asked.cache or Path(temporary) / "environments").resolve()
        logs = Path(temporary) / "server"
        logs.mkdir()
        with start(logs) as server:
            address = f"http://127.0.0.1:{server.port}"
            results = [_run(name, cache / name, address) for name in asked.libraries or LIBRARIES]
    _print(results)
    return sum(bool(one.failures) for one in results)


def _run(library: str, environment: Path, address: str) -> Result:
    """Install a library unless its environment is there, and run its suite."""
    print(f"{library} ...", file=sys.stderr, flush=True)
    python = (HERE / library / "requirements.txt").exists()
    pins = HERE / library / ("requirements.txt" if python else "package.json")
    installed = environment / "installed"
    if not installed.exists() or installed.read_text() != pins.read_text():
        (_install_python if python else _install_node)(environment, pins)
        installed.write_text(pins.read_text())
    report = environment / "report.xml"
    report.unlink(missing_ok=True)
    command = _pytest(library, environment, report) if python else _node(library, environment, report)
    environ = os.environ | {
        "CLIENTS_ADDRESS": address,
        "CLIENTS_IMAGE": str(ROOT / "docs" / "red-square.png"),
        "CLIENTS_DOCUMENT": str(ROOT / "docs" / "api.md"),
    }
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT if python else environment,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    return _result(library, report, time.monotonic() - began, done.stdout)


def _install_python(environment: Path, pins: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--requirement", str(pins)], check=True)


def _install_node(environment: Path, pins: Path) -> None:
    environment.mkdir(parents=True, exist_ok=True)
    shutil.copy(pins, environment)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=environment, check=True)


def _pytest(library: str, environment: Path, report: Path) -> list[str]:
    suite = f"tests/clients/{library}/suite.py"
    command = [str(environment / "bin" / "python"), "-m", "pytest", suite, f"--junitxml={report}", "--tb=short"]
    # The settings and fixtures of this folder alone: the environment has none of the service's packages.
    return [*command, "-c", "tests/clients/pytest.ini", "--rootdir", ".", "--confcutdir", "tests/clients"]


def _node(library: str, environment: Path, report: Path) -> list[str]:
    shutil.copy(HERE / library / "suite.mjs", environment)  # from where its imports are found
    reporters = ["--test-reporter=junit", f"--test-reporter-destination={report}"]
    return ["node", "--test", *reporters, "--test-reporter=spec", "--test-reporter-destination=stdout", "suite.mjs"]


def _result(library: str, report: Path, seconds: float, log: str) -> Result:
    """Return what the report says; a suite without one has failed as a whole."""
    if not report.exists():
        return Result(library, 0, ["the suite did not run"], 0, 0, seconds, log)
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failures = [case.get("name", "") for case in cases if _has(case, "failure") or _has(case, "error")]
    left_out = [case.find("skipped") for case in cases if _has(case, "skipped")]
    expected = sum(mark is not None and mark.get("type") == "pytest.xfail" for mark in left_out)
    passed = len(cases) - len(failures) - len(left_out)
    return Result(library, passed, failures, expected, len(left_out) - expected, seconds, log)


def _has(case: ElementTree.Element, name: str) -> bool:
    return case.find(name) is not None


def _print(results: list[Result]) -> None:
    for one in results:
        if one.failures:
            print(one.log)
    print("| suite | passed | failed | expected failures | skipped | seconds |")
    print("|---|---|---|---|---|---|")
    for one in results:
        figures = (one.passed, len(one.failures), one.expected, one.skipped, round(one.seconds))
        print(f"| {one.library} | {' | '.join(map(str, figures))} |")
    for one in results:
        print(*(f"FAILED {one.library}: {name}\n" for name in one.failures), sep="", end="")


if __name__ == "__main__":
    sys.exit(main())
