"""Whoever reads a recorded figure can check out what was measured: its commit is in the history."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.harness.record import RESULTS, ROOT

# Measured at commits that were rewritten before they were merged. Measure one anew and take it off the list.
REWRITTEN = {
    "card/h100/defaults.json": "417527d",
    "hooks_cost.json": "809fbc9",
    "key_cost.json": "d031e81",
    "lighthouse.md": "68e0a7b e696448",
    "lock_holds.json": "c96945f",
    "page_latency.json": "8dd87e0",
    "page_tasks.json": "1389ecc",
    "thread_time.json": "17c6bd6",
}
# Written before the program told its commit, which stands in results/card/README.md.
UNNAMED = dict.fromkeys(f"card/{name}.json" for name in ("attention", "facts", "graphs", "paged_attention", "skinny"))


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder."""
    return subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def is_whole(folder: Path) -> bool:
    """Return whether a folder is a repository with all of its history."""
    shallow = git(folder, "rev-parse", "--is-shallow-repository").stdout.strip()
    return (folder / ".git").exists() and shallow == "false"


def commits_of(result: Path) -> str | None:
    """Return the first seven digits of each commit that a result names, None if it names none."""
    text = result.read_text(encoding="utf-8")
    if result.suffix == ".md":
        found = re.findall(r"\bat commit (\w+)", text)
    else:
        content = json.loads(text)
        found = [(content.get("facts") or content.get("origin") or {}).get("commit") or ""]
    return " ".join(commit[:7] for commit in found) or None


def named(results: Path) -> dict[str, str | None]:
    """Return the commits that each result names: its JSON, or its text where there is none."""
    texts = [path for path in results.rglob("*.md") if not path.with_suffix(".json").exists()]
    found = [*results.rglob("*.json"), *(path for path in texts if path.name != "README.md")]
    return {str(path.relative_to(results)): commits_of(path) for path in sorted(found)}


def outside(folder: Path, results: Path) -> dict[str, str | None]:
    """Return the results with a commit that is no ancestor of HEAD, with what they name."""
    return {
        name: commits
        for name, commits in named(results).items()
        if not all(
            git(folder, "merge-base", "--is-ancestor", commit, "HEAD").returncode == 0
            for commit in (commits or "none").split()
        )
    }


@pytest.mark.needs("git")
def test_every_recorded_commit_can_be_checked_out() -> None:
    """Except those that are listed, each with its reason; none stays listed once it is measured anew.

    Where the history is not here, or one that was begun anew without any of them, each at least names one.
    """
    commits, found = named(RESULTS), outside(ROOT, RESULTS)
    assert {name for name, commit in commits.items() if not commit} == set(UNNAMED)
    assert all(re.fullmatch(r"[0-9a-f]{7}( [0-9a-f]{7})*", told) for told in commits.values() if told)
    assert not is_whole(ROOT) or found in (REWRITTEN | UNNAMED, commits)


def test_what_names_no_commit_has_one_beside_it() -> None:
    """In the table of its folder."""
    rows = [row.split("|") for row in (RESULTS / "card" / "README.md").read_text(encoding="utf-8").splitlines()]
    told = {name for cells in rows if len(cells) > 2 and cells[2].strip() for name in cells[1].strip().split(", ")}
    assert {Path(name).stem for name in UNNAMED} <= told


@pytest.mark.needs("git")
def test_a_commit_of_elsewhere_is_found(tmp_path: Path) -> None:
    """One of a branch that was not merged, one that nobody has, one that is not told; not one of the history.

    In a result that is a text alone as well.
    """
    git(tmp_path, "init", "-q", "-b", "main")
    made = {}
    for branch in ("main", "aside"):
        git(tmp_path, "checkout", "-q", "-B", branch)
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", branch)
        made[branch] = git(tmp_path, "rev-parse", "HEAD").stdout.strip()
    git(tmp_path, "checkout", "-q", "main")
    assert is_whole(tmp_path)
    (results := tmp_path / "results" / "card").mkdir(parents=True)
    for name, content in {
        "good": {"facts": {"commit": made["main"]}},
        "card/good": {"origin": {"commit": made["main"][:25]}},
        "aside": {"facts": {"commit": made["aside"]}},
        "nobody": {"facts": {"commit": "0123456789" * 4}},
        "card/untold": {"origin": {}},
        "no-git": {"facts": {"commit": "unknown"}},
    }.items():
        (results.parent / f"{name}.json").write_text(json.dumps(content))
    for name, texts in {"good": ["aside"], "alone": ["main"], "two": ["main", "aside"], "README": []}.items():
        (results.parent / f"{name}.md").write_text("".join(f"Measured at commit {made[text]}.\n" for text in texts))
    (results / "told-nothing.md").write_text("Measured.")
    assert outside(tmp_path, results.parent) == {
        "aside.json": made["aside"][:7],
        "card/told-nothing.md": None,
        "card/untold.json": None,
        "no-git.json": "unknown",
        "nobody.json": "0123456",
        "two.md": f"{made['main'][:7]} {made['aside'][:7]}",
    }


@pytest.mark.needs("git")
def test_a_part_of_a_history_is_no_whole_one(tmp_path: Path) -> None:
    """A shallow clone lacks commits that are in the history; an unpacked archive has none."""
    assert not is_whole(tmp_path)
    (origin := tmp_path / "origin").mkdir()
    git(origin, "init", "-q")
    for message in ("one", "two"):
        git(origin, "commit", "-q", "--allow-empty", "-m", message)
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{origin}", "shallow")
    assert (tmp_path / "shallow" / ".git").is_dir()
    assert not is_whole(tmp_path / "shallow")
