"""The arithmetic of the benchmark of keys; the measuring itself is not repeated here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import key_cost
from benchmarks.hooks_cost import Samples
from database.connect import Database, sqlite_url
from keys.registry import KeyRegistry
from keys.store import KeyStore


def samples(*latencies: float) -> Samples:
    taken = Samples()
    taken.add(list(latencies), sum(latencies))
    return taken


def test_what_is_added_is_the_difference_of_the_medians() -> None:
    """Over the request without a key; the sentence follows the figures."""
    measured = {key_cost.WITHOUT: samples(0.001), key_cost.KEY: samples(0.0012), key_cost.TOKEN: samples(0.0014)}
    figures = key_cost.summary(measured)
    assert figures[key_cost.KEY]["added_median_ms"] == pytest.approx(0.2)
    assert "missed (0.40 ms" in str(key_cost.verdict(figures))
    del figures[key_cost.TOKEN]
    assert "met (0.20 ms" in str(key_cost.verdict(figures))


def test_the_measured_key_is_one_of_many(tmp_path: Path) -> None:
    """It is found among those that were put there."""
    text = key_cost.filled(tmp_path, 50)
    store = KeyStore(KeyRegistry(Database(sqlite_url(tmp_path / "avito-ai.db"))))
    store.load()
    assert len(store) == 50
    found = store.find(text, 0.0)
    assert found is not None
    assert found.name == "measured"
