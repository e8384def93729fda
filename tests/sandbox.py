"""A checkout of its own with a PATH of its own, for running deploy.sh against a machine that is not this one.

Only the tools named in TOOLS are on the PATH, and whatever a test adds with `tool`. A Python made by `python` makes a
"virtual environment" whose interpreter is the one that runs the tests, except that its pip only writes down what it
was asked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ("deploy.sh", "deploy", "requirements.txt", "requirements-test.txt", "deploy/constraints-cuda.txt", "config.py")
PARTS += ("settings", "terminal.py", ".env.example")
TOOLS = "awk bash cat chmod cp cut df dirname du env grep head id mv rm sed sh sleep tail tee tr uname".split()
TIMEOUT = 180.0  # seconds, for a command that is expected to end

PYTHON = """#!/bin/sh
case "$*" in
{cases}
"-m venv --clear .venv") rm -rf .venv; mkdir -p .venv/bin && cp "{venv_python}" .venv/bin/python; exit ;;
esac
exec "{interpreter}" "$@"
"""
VENV_PYTHON = """#!/bin/sh
case "$*" in
*"-m pip install --quiet"*) echo '{{"install": [{{"metadata": {{"version": "2.13.0+cpu"}}}}]}}'; exit ;;
*"-m pip "*|*"-m pytest"*) echo "$*" >>"{log}"; {verdict} ;;
esac
exec "{interpreter}" "$@"
"""


class Sandbox:
    """A copy of what deploy.sh reads, in `root`, and a folder of programs, `bin`, that is the whole PATH."""

    def __init__(self, folder: Path) -> None:
        self.root, self.bin, self.log = folder / "checkout", folder / "bin", folder / "calls"
        self.home = folder / "home"
        for new in (self.root, self.bin, self.home):
            new.mkdir()
        for part in PARTS:
            self._copy(part)
        for name in (*TOOLS, "mkdir"):
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)
        self.venv_python = folder / "venv-python"
        self.pip_answers("exit 0")

    def tool(self, name: str, script: str) -> None:
        """Put a program on the PATH: the body of a shell script."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name: str = "python3", cases: str = "") -> None:
        """Put a supported Python on the PATH; cases: shell `case` branches that it answers differently."""
        path = self.bin / name
        path.write_text(PYTHON.format(cases=cases, venv_python=self.venv_python, interpreter=sys.executable))
        path.chmod(0o755)

    def pip_answers(self, verdict: str) -> None:
        """Let pip (and pytest) in the virtual environment end with this shell text after noting the call."""
        text = VENV_PYTHON.format(log=self.log, verdict=verdict, interpreter=sys.executable)
        self.venv_python.write_text(text)
        self.venv_python.chmod(0o755)

    def environ(self, **extra: str) -> dict[str, str]:
        """Return the environment of a run: nothing of this machine's but what is named here."""
        return {"PATH": str(self.bin), "HOME": str(self.home), "TORCH_INDEX_URL": "http://127.0.0.1:9/cpu", **extra}

    def run(self, *arguments: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        """Run deploy.sh to its end, away from any terminal. cwd: the folder to do it in; by default its own."""
        return subprocess.run(
            ["bash", str(self.root / "deploy.sh"), *arguments],
            cwd=cwd or self.root,
            env=self.environ(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )

    def link_service(self) -> None:
        """Put the whole service into the checkout, but for what deploy.sh makes there itself."""
        for source in REPOSITORY.iterdir():
            if source.name not in (".git", ".venv", ".env") and not (self.root / source.name).exists():
                (self.root / source.name).symlink_to(source)

    def calls(self) -> list[str]:
        """Return what pip, pytest and the noting tools were asked, in order."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def _copy(self, part: str) -> None:
        source, target = REPOSITORY / part, self.root / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target)
