"""The table of published vulnerabilities: enough of them, each once, each with an existing test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = "docs/known-vulnerabilities.md"
FEWEST = 40
# Of the same kind as those beside them, and published nowhere.
UNPUBLISHED = {
    "test_a_broken_chunked_body_is_the_clients_mistake",
    "test_a_link_that_leads_to_the_web_does_nothing_else",
}
ROW = re.compile(
    r"^\| \[(?P<id>[\w-]+)\]\((?P<source>\S+)\) \| (.+?) \| (.+?) \| (.+?) \| `(?P<test>[\w/.]+::\w+)` \|$"
)
SOURCES = {
    "CVE": "https://www.cve.org/CVERecord?id=",
    "GHSA": "https://github.com/advisories/",
    "PYSEC": "https://osv.dev/vulnerability/",
}
DATED = re.compile(r"(?:CVE|PYSEC)-(\d{4})-\d+")


def rows() -> list[re.Match[str]]:
    """Return the rows; a line of a table that is none fails the test."""
    lines = (ROOT / TABLE).read_text(encoding="utf-8").splitlines()
    cells = [line for line in lines if line.startswith("| ") and not line.startswith("| published as ")]
    found = [(line, ROW.match(line)) for line in cells]
    assert [line for line, row in found if row is None] == []
    return [row for _, row in found if row]


def collected_from(file: str) -> set[str]:
    """Return the names of the tests that pytest collects from a file."""
    assert Path(file).name.startswith("test_")
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_there_are_enough_and_each_once() -> None:
    """At least forty, under their published names."""
    names = [row["id"] for row in rows()]
    assert len(names) >= FEWEST
    assert sorted(names) == sorted(set(names))


def test_each_leads_to_where_it_was_published() -> None:
    """In the register that assigned the name; none is older than 2024."""
    for row in rows():
        name = row["id"]
        assert row["source"] == SOURCES[name.partition("-")[0]] + name
        dated = DATED.fullmatch(name)
        assert name.startswith("GHSA-") or (dated and int(dated[1]) >= 2024), name


def test_each_has_a_test_that_exists() -> None:
    """Under the name that the table gives, in a file that the suite runs."""
    named = {row["test"] for row in rows()}
    files = {test.partition("::")[0] for test in named}
    there = {f"{file}::{name}" for file in files for name in collected_from(file)}
    assert sorted(named - there) == []


def test_each_test_of_this_folder_is_in_the_table() -> None:
    """Each test of a published vulnerability names it."""
    named = {row["test"].partition("::")[2] for row in rows()}
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    written = {name for file in files if file != Path(__file__) for name in collected_from(str(file.relative_to(ROOT)))}
    assert sorted(written - named) == sorted(UNPUBLISHED)
