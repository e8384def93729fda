"""The tree as its linters see it, with the settings of pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.system_programs import unmeasured

ROOT = Path(__file__).parents[1]
SCRIPTS = ["deploy.sh", ".ci/run", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("deploy/**/*.sh"))]
YAML = [".github", ".pre-commit-config.yaml", ".yamllint.yaml", "compose.yaml", "deploy/compose/gpu.yaml", "deploy"]

# The results name the commits that they were measured at, which look like keys.
RESULTS = re.compile(r"benchmarks/results/.*\.json$")


def tool(name: str) -> str:
    """Return the program that the environment of the tests brought along."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is not installed; requirements-test.txt brings it"
    return found


def run(command: list[str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a linter to its end."""
    return subprocess.run(
        command, cwd=folder, env=unmeasured(), capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy"],
        ["shellcheck", "--external-sources", *SCRIPTS],
        ["yamllint", "--strict", *YAML],
        ["bandit", "--quiet", "--configfile", "pyproject.toml", "--recursive", "."],
    ],
    ids=["ruff-check", "ruff-format", "mypy", "shellcheck", "yamllint", "bandit"],
)
@pytest.mark.slow
def test_the_linter_has_nothing_to_say(command: list[str]) -> None:
    """The linters of `make lint` pass."""
    name, *arguments = command
    done = run([tool(name), *arguments])
    assert done.returncode == 0, done.stdout + done.stderr


RECIPES = {
    target: recipe
    for target, recipe in re.findall(
        r"^([a-z-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    if "$(PYTHON)" in recipe
}


@pytest.mark.parametrize("target", RECIPES)
@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_a_target_names_the_command_that_brings_what_it_lacks(target: str, tmp_path: Path) -> None:
    """In a checkout that has only served, or was never set up, one sentence stands in place of Python's error."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    without_packages = tmp_path / ".venv/bin/python"
    for there in (False, True):
        if there:
            without_packages.parent.mkdir(parents=True)
            without_packages.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n', encoding="utf-8")
            without_packages.chmod(0o755)
        done = run(["make", target], tmp_path)
        assert done.returncode == 2
        said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert len(said) == 1
        assert re.fullmatch(rf"'make {target}' needs \w+, which \.venv does not have\. This brings it: \S.+", said[0])


def distinct_lines(modules: list[str]) -> str:
    """Return every line of the modules once: two fifths are in several, and the scanner looks at each by itself."""
    texts = (Path(ROOT / name).read_text(encoding="utf-8") for name in modules)
    return "\n".join({line.strip(): None for text in texts for line in text.splitlines()})


@pytest.mark.slow
@pytest.mark.needs("git")
def test_no_secret_is_in_the_tree(tmp_path: Path) -> None:
    """No committed text looks like a key; false positives are marked on their line."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    ).stdout
    files = [name for name in listed.split("\0") if name and not RESULTS.match(name) and (ROOT / name).is_file()]
    scan, modules = [tool("detect-secrets-hook"), "--no-verify"], [name for name in files if name.endswith(".py")]
    (distinct := tmp_path / "distinct.py").write_text(distinct_lines(modules), encoding="utf-8")
    done = run([*scan, str(distinct), *(name for name in files if name not in modules)])
    if done.returncode:
        done = run([*scan, *files])  # which names the file
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "name", "finding"),
    [
        (
            ["bandit", "--quiet", "--configfile", str(ROOT / "pyproject.toml")],
            "shell.py",
            "import os\nos.system(input())\n",
        ),
        (["detect-secrets-hook", "--no-verify"], "key.py", f'aws = "AKIA{"ABCDEFGHIJKLMNOP"}"\n'),
    ],
    ids=["bandit", "detect-secrets"],
)
@pytest.mark.slow
def test_the_scanners_find_what_they_are_for(command: list[str], name: str, finding: str, tmp_path: Path) -> None:
    """A shell command from input and a key of a cloud fail the lint step, with the options that it uses."""
    (tmp_path / name).write_text(finding)
    done = run([tool(command[0]), *command[1:], name], tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr


def test_each_exception_of_the_scanners_has_its_reason() -> None:
    """A line is excused from one check by its number, with the reason beside it; no file and no line as a whole."""
    marks = [
        (path.name, line)
        for path in ROOT.rglob("*.py")
        if not {".venv", "tests"} & set(path.relative_to(ROOT).parts)
        for line in path.read_text(encoding="utf-8").splitlines()
        if "# nosec" in line
    ]
    assert marks
    assert [mark for mark in marks if not re.search(r"# nosec B\d{3} # .{5}", mark[1])] == []


def test_the_shell_scripts_keep_to_old_bash() -> None:
    """macOS has bash 3.2: no associative arrays, no mapfile, no case changes, no name references."""
    newer = ("declare -A", "mapfile", "readarray", "local -n", ",,}", "^^}", "&>>", "|&")
    texts = {script: (ROOT / script).read_text(encoding="utf-8") for script in SCRIPTS}
    assert [(script, word) for script, text in texts.items() for word in newer if word in text] == []


@pytest.mark.needs("git")
def test_the_commit_hooks_run_the_same_linters() -> None:
    """Each hook uses a tool that requirements-test.txt brings, so nothing is downloaded, and no linter is left out."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].removeprefix(".venv/bin/python -m ") for hook in repository["hooks"]]
    names = {entry.split()[0].removeprefix(".venv/bin/") for entry in entries}
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert names == {"git", "ruff", "mypy", "shellcheck", "yamllint", "hadolint", "bandit", "detect-secrets-hook"}
    assert all(tool(name) for name in names)
