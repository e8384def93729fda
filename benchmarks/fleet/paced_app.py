"""The service with the demo models, whose steps take as long as those of a device would, during which the host waits.

So several copies fit onto a small machine without slowing each other down. STEP_MS, ROW_MS and TOKEN_MS in the
environment: milliseconds of a step, of each row that it decodes, and of each token of a prompt.
"""

from __future__ import annotations

import os
import time
from typing import Any

from app_production import create_app
from benchmarks.harness.record import ROOT
from config import settings_or_exit
from engine.llm_engine import LLMEngine
from engine.model.kernels.library import load_kernels
from engine.model.runner import ModelRunner
from engine.schedule.plan import Plan
from engine.types import EngineConfig, ModelSpec
from models import ModelSet

STEP, ROW, TOKEN = (float(os.environ[name]) / 1e3 for name in ("STEP_MS", "ROW_MS", "TOKEN_MS"))


class PacedRunner(ModelRunner):
    """Computes each step, and returns no sooner than the device would."""

    def run(self, plan: Plan) -> Any:
        """See ModelRunner.run."""
        prompts = sum(count for _, count in plan.prefill)
        until = time.perf_counter() + STEP + ROW * len(plan.decode) + TOKEN * prompts
        chosen = super().run(plan)
        time.sleep(max(0.0, until - time.perf_counter()))
        return chosen


def _runner(model: Any, num_blocks: int, config: EngineConfig, max_model_len: int, *_: object) -> PacedRunner:
    return PacedRunner(model, num_blocks, config.max_num_seqs, max_model_len, load_kernels())


def _engine(name: str) -> LLMEngine:
    folder = ROOT / "demo" / name
    spec = ModelSpec(name, name, name == "avision", folder, folder, "cpu", "float32", "", "", "")
    return LLMEngine(spec, EngineConfig(cpu_threads=1), make_runner=_runner)


app = create_app(settings_or_exit(), ModelSet({name: _engine(name) for name in ("avibe", "avision")}))
