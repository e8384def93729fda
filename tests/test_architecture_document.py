"""ARCHITECTURE.txt matches the code: its questions name existing definitions, its drawing existing folders."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "ARCHITECTURE.txt").read_text(encoding="utf-8")


def answers() -> list[tuple[str, str]]:
    """Return the file and the name in it of each question under "Where to find it" in ARCHITECTURE.txt."""
    section = DOCUMENT.partition("Where to find it\n")[2].partition("\nThe life of a request\n")[0]
    return re.findall(r"\? +(\S+\.py) +(\S+)$", section, re.MULTILINE)


def test_each_answer_of_the_architecture_stands_where_it_says() -> None:
    """Each question names a file and a class, function, method or constant that the file defines."""
    assert len(answers()) > 20
    for file, name in answers():
        assert name in defined(ast.parse((ROOT / file).read_text(encoding="utf-8")).body), f"{file} defines no {name}"


def defined(body: list[ast.stmt], prefix: str = "") -> set[str]:
    """Return the names that statements define, those in classes with their class."""
    found = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
            found |= defined(node.body, f"{node.name}.")
        if isinstance(node, ast.Assign):
            found |= {ast.unparse(target) for target in node.targets}
    return found


def test_every_package_is_drawn() -> None:
    """Each folder that is listed exists; each package of the root and each room of the engine is named."""
    listed = set(re.findall(r"^    (\w+)/", DOCUMENT.partition("\nFolders\n")[2], re.MULTILINE))
    assert {name for name in listed if not (ROOT / name).is_dir()} == set()
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= listed
    assert all(f"  {path.parent.name}/" in DOCUMENT for path in ROOT.glob("engine/*/__init__.py"))
