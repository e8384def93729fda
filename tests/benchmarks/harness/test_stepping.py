"""Driving the engine step by step from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.stepping import SteppedEngine
from benchmarks.harness.workload import Workload
from benchmarks.offline import requests
from engine.loading.loader import load_model
from engine.types import EngineConfig
from tests.checkpoints import text_spec, write_text_checkpoint


@pytest.mark.parametrize("clients", [1, 3])
def test_every_token_is_in_a_step(tmp_path: Path, clients: int) -> None:
    """The steps together decode each answer but its first token, for no more clients at once than were asked for."""
    loaded = load_model(text_spec(write_text_checkpoint(tmp_path)), lambda progress: None)
    engine = SteppedEngine(loaded, EngineConfig(max_num_seqs=4, max_model_len=1024))
    steps = list(engine.closed_loop(requests(Workload(tokens=6), 5, "steps"), clients))
    assert sum(step.rows for step in steps) == 5 * (6 - 1)
    assert max(step.rows for step in steps) <= clients
    assert all(step.model > 0 and step.host > 0 for step in steps)
