"""The tree as its linters see it, with the settings of pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = ["deploy.sh", ".ci/run", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("deploy/**/*.sh"))]
YAML = [".github", ".pre-commit-config.yaml", ".yamllint.yaml", "compose.yaml", "deploy/compose/gpu.yaml", "deploy"]


def tool(name: str) -> str:
    """Return the program that the environment of the tests brought along."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed; requirements-test.txt brings it"
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy"],
        ["shellcheck", "--external-sources", *SCRIPTS],
        ["yamllint", "--strict", *YAML],
    ],
    ids=["ruff-check", "ruff-format", "mypy", "shellcheck", "yamllint"],
)
def test_the_linter_has_nothing_to_say(command: list[str]) -> None:
    """What `make lint` runs passes."""
    name, *arguments = command
    done = subprocess.run([tool(name), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_shell_scripts_keep_to_old_bash() -> None:
    """macOS has bash 3.2: no associative arrays, no mapfile, no case changes, no name references."""
    newer = ("declare -A", "mapfile", "readarray", "local -n", ",,}", "^^}", "&>>", "|&")
    texts = {script: (ROOT / script).read_text(encoding="utf-8") for script in SCRIPTS}
    assert [(script, word) for script, text in texts.items() for word in newer if word in text] == []


def test_the_commit_hooks_run_the_same_linters() -> None:
    """Each hook uses a tool that requirements-test.txt brings, so nothing is downloaded, and no linter is left out."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].removeprefix(".venv/bin/python -m ") for hook in repository["hooks"]]
    names = {entry.split()[0].removeprefix(".venv/bin/") for entry in entries}
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert names == {"git", "ruff", "mypy", "shellcheck", "yamllint", "hadolint"}
    assert all(tool(name) for name in names)
