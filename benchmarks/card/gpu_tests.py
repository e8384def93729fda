"""The tests that need a GPU.

Pytest runs in a process of its own, and without the conftest of the web's tests and what that imports.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.card.processes import ended_within
from benchmarks.card.record import Options, Rows, problem
from benchmarks.harness.record import ROOT

# The machine may have an older pytest, few of the test packages and plugins of its own, so the settings of the project
# are left out, and so are all plugins.
COMMAND = (
    "-m", "pytest", "-v", "-rfEs", "--tb=short", "--durations=15", "-p", "no:cacheprovider", "-c", os.devnull,
    f"--rootdir={ROOT}", "--import-mode=importlib", "-o", "faulthandler_timeout=40",
    "-W", "ignore::pytest.PytestUnknownMarkWarning", "-p", "tests.repeats",
)  # fmt: skip
WORKERS = ("-p", "xdist", "-n", "8")  # most of the time kernels are compiled, on one core each
ONLY_PLANNED = ("--setup-plan", "-q")  # which finds fixtures that are missing
LINE = re.compile(
    r"^(?:FAILED|ERROR|SKIPPED|E  )|(?:passed|failed|skipped|collected)(?:,| in | \()|^[\d.]+s (?:call|setup)"
)
LAST = 20  # lines of a run that was stopped
WRITING = 10.0  # seconds of the part's minutes that are left for what comes after the tests


def gpu_tests(options: Options) -> Rows:
    """Yield what pytest says of them."""
    yield from run_tests("tests/gpu", "tests/gpu", "gpu", options)


def run_tests(folder: str, top: str, marker: str, options: Options) -> Rows:
    """Yield the lines of pytest that say what passed, failed, was skipped or took long; all of it goes to a file.

    top: the folder whose conftest the tests need, and none above; marker: which tests of the folder.
    """
    parallel = WORKERS if importlib.util.find_spec("xdist") and not options.tiny else ()
    options.results.mkdir(parents=True, exist_ok=True)
    log = options.results / f"{folder.replace('/', '_')}.log"
    only = ONLY_PLANNED if options.tiny else ()
    status = _run(
        [sys.executable, *COMMAND, *parallel, f"--confcutdir={top}", folder, "-m", marker, *only], log, options
    )
    lines = log.read_text(encoding="utf-8").replace("|", "/").splitlines()
    for line in filter(LINE.search, lines) if status is not None else lines[-LAST:]:
        yield folder, {"line": line[:300]}
    ended = "stopped: its time was over" if status is None else f"exit status {status}"
    yield folder, {"line": ended}
    if status != 0:
        yield problem(f"the tests of {folder}: {ended}")


def _run(command: list[str], log: Path, options: Options) -> int | None:
    """Run pytest; return its exit status, None if its time was over."""
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "GPU_TESTS_DEVICE": options.device,
    }
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
        return ended_within(process, max(0.0, options.minutes * 60 - WRITING))
