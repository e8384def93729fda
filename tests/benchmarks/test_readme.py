"""The list of the programs in benchmarks/README.md, against the programs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
TOOLS = {"make_model", "plot"}  # which measure nothing
PROGRAMS = {path.stem: path for path in FOLDER.glob("*.py")}.items() - {("__init__", FOLDER / "__init__.py")}


def defaults(path: Path) -> list[bool]:
    """Return whether each option --results of a program has a default."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    own = [
        call for call in calls if any(isinstance(arg, ast.Constant) and arg.value == "--results" for arg in call.args)
    ]
    return [any(keyword.arg == "default" for keyword in call.keywords) for call in own]


def named(sentence: str) -> set[str]:
    """Return the programs that the first sentence with these words names."""
    (found,) = re.findall(rf"[^.]*{sentence}", " ".join(README.split()))
    return set(re.findall(r"`(\w+)`", found)) & dict(PROGRAMS).keys()


def test_every_program_is_in_the_table() -> None:
    """With its question and its command."""
    rows = set(re.findall(r"^\| `([\w.]+)` \|", README.partition("## Models and prompts")[0], re.MULTILINE))
    assert {name for name in rows if (FOLDER / f"{name}.py").is_file()} == dict(PROGRAMS).keys() - TOOLS


def test_what_writes_nothing_by_itself_is_told() -> None:
    """A reader who runs it finds no file; `cuda_step` has JSON alone."""
    silent = {name for name, path in PROGRAMS if defaults(path) == [False]}
    assert named("write them with `--results` only") == silent - {"cuda_step"}


def plots(path: Path) -> bool:
    """Return whether a program, or a module of harness/ that it takes its report from, makes panels."""
    source = path.read_text(encoding="utf-8")
    modules = re.findall(
        r"^from benchmarks\.harness\.(\w+) import|^from benchmarks\.harness import ([\w, ]+)", source, re.M
    )
    own = [FOLDER / "harness" / f"{name}.py" for pair in modules for name in ", ".join(filter(None, pair)).split(", ")]
    return any("-> list[Panel]:" in text for text in (source, *(each.read_text(encoding="utf-8") for each in own)))


def test_what_plots_is_told() -> None:
    """The others write no PNG."""
    assert named("also plot, as") == {name for name, path in PROGRAMS if plots(path)}
