"""The tests that need a GPU, and those of the kernels, which run on one where there is one.

Pytest runs in a process of its own, and without the conftest of the web's tests and what that imports.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from benchmarks.card.record import Options, Rows
from benchmarks.harness.record import ROOT

# The machine may have an older pytest and few of the test packages, so the settings of the project are left out.
COMMAND = (
    "-m", "pytest", "-rfEs", "--tb=short", "--durations=15", "-p", "no:cacheprovider", "-c", os.devnull,
    f"--rootdir={ROOT}", "--import-mode=importlib",
)  # fmt: skip
FOLDERS = ("tests/gpu", "tests/engine/model/cuda")
LINE = re.compile(
    r"^(?:FAILED|ERROR|SKIPPED|E  )|(?:passed|failed|skipped|collected)(?:,| in )|^[\d.]+s (?:call|setup)"
)


def gpu_tests(options: Options) -> Rows:
    """Yield the lines of pytest that say what passed, failed, was skipped or took long; all of it goes to a file."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *_path()])}
    only = ["--collect-only", "-q"] if options.tiny else []
    environment |= {"GPU_TESTS_DEVICE": options.device}
    options.results.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        done = subprocess.run(
            [sys.executable, *COMMAND, f"--confcutdir={folder}", folder, *only],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=options.minutes * 60,
        )
        log = options.results / f"{folder.replace('/', '_')}.log"
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        for line in done.stdout.splitlines():
            if LINE.search(line):
                yield folder, {"line": line.replace("|", "/")[:300]}
        yield folder, {"line": f"exit status {done.returncode}"}
        if done.returncode:
            yield folder, {"line": done.stderr[-600:].replace("\n", " ").replace("|", "/")}


def _path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
