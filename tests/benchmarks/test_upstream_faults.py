"""The short form of `benchmarks.upstream_faults`, and what it judges."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import upstream_faults
from benchmarks.upstream_faults import judge, main

HELD = {"threads": 4, "sockets": 7, "descriptors": 30}
GOOD = Counter({"right": 980, "UpstreamFailed": 20})


def test_every_request_to_a_server_that_fails_ends_right_or_typed(tmp_path: Path) -> None:
    """Whole or one typed error, streams as well; nothing is left in flight, and no connection, thread or descriptor."""
    options = ["--requests", "400", "--rate", "0.2", "--at-once", "16", "--results", str(tmp_path)]
    assert main(options) == 0
    written = json.loads((tmp_path / "upstream_faults.json").read_text())
    assert not written["wrong"]
    assert written["outcomes"]["right"] > 300
    assert sum(written["outcomes"].values()) == 400


def missed(outcomes: Counter[str] = GOOD, wrong: list[str] | None = None, **after: int) -> list[str]:
    """Return the targets that are missed. after: what is held more than before."""
    held = {name: count + after.get(name, 0) for name, count in HELD.items()}
    return [own.target for own in judge(outcomes, wrong or [], 0.05, HELD, held) if own.word == "missed"]


def test_what_is_right_and_leaves_nothing_meets_every_target() -> None:
    """Less than before is no leak either."""
    assert missed() == missed(threads=-2, descriptors=-9) == []


@pytest.mark.parametrize("name", HELD)
def test_each_leak_is_seen_by_itself(name: str) -> None:
    """One thread fewer does not make up for five hundred descriptors."""
    others = dict.fromkeys(HELD, -1)
    assert missed(**others | {name: 500}) == [f"no more {name} than before"]


def test_nothing_but_typed_errors_is_not_enough() -> None:
    """A client that gives up at once would answer nobody."""
    assert missed(Counter({"UpstreamFailed": 1000})) == ["at least 95.0% of them right"]
    assert missed(Counter({"right": 949, "UpstreamFailed": 51})) == ["at least 95.0% of them right"]


def test_a_wrong_end_is_told() -> None:
    """With its sentence."""
    assert missed(wrong=["wrong: another text"]) == ["every request ends right or typed"]


def test_a_leak_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has had its time to be given back."""
    counts = iter(range(10, 10_000))
    monkeypatch.setattr(upstream_faults, "SETTLED", 0.0)
    monkeypatch.setattr(upstream_faults, "held", lambda: {"descriptors": next(counts)})
    assert main(["--requests", "4", "--rate", "0"]) == 1
