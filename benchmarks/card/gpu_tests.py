"""The tests that need a GPU, and those of the kernels, which run on one where there is one.

Pytest runs in a process of its own, and without the conftest of the web's tests and what that imports.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.card.record import Options, Rows
from benchmarks.harness.record import ROOT

# The machine may have an older pytest and few of the test packages, so the settings of the project are left out.
COMMAND = (
    "-m", "pytest", "-v", "-rfEs", "--tb=short", "--durations=15", "-p", "no:cacheprovider", "-c", os.devnull,
    f"--rootdir={ROOT}", "--import-mode=importlib", "-o", "faulthandler_timeout=40",
)  # fmt: skip
WORKERS = ("-n", "4")  # most of the time kernels are compiled, on one core each
# Each with the folder whose conftest it needs, and none above.
FOLDERS = {"tests/gpu": "tests/gpu", "tests/engine/model/cuda": "tests/engine"}
LINE = re.compile(
    r"^(?:FAILED|ERROR|SKIPPED|E  )|(?:passed|failed|skipped|collected)(?:,| in | \()|^[\d.]+s (?:call|setup)"
)
LAST = 20  # lines of a run that was stopped


def gpu_tests(options: Options) -> Rows:
    """Yield the lines of pytest that say what passed, failed, was skipped or took long; all of it goes to a file."""
    parallel = WORKERS if importlib.util.find_spec("xdist") and not options.tiny else ()
    only = ("--collect-only", "-q") if options.tiny else ()
    options.results.mkdir(parents=True, exist_ok=True)
    for folder, top in FOLDERS.items():
        log = options.results / f"{folder.replace('/', '_')}.log"
        command = [sys.executable, *COMMAND, *parallel, f"--confcutdir={top}", folder, "-m", "not slow", *only]
        status = _run(command, log, options)
        lines = log.read_text(encoding="utf-8").replace("|", "/").splitlines()
        for line in filter(LINE.search, lines) if status is not None else lines[-LAST:]:
            yield folder, {"line": line[:300]}
        yield folder, {"line": "stopped: its time was over" if status is None else f"exit status {status}"}


def _run(command: list[str], log: Path, options: Options) -> int | None:
    """Run pytest; return its exit status, None if its time was over."""
    path = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "GPU_TESTS_DEVICE": options.device}
    with log.open("w", encoding="utf-8") as output:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=options.minutes * 60,
            )
        except subprocess.TimeoutExpired:
            return None
    return done.returncode
