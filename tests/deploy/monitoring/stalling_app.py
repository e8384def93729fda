"""The whole application for a real Gunicorn, over models that answer at once and stand still while a file says so.

`stalled` in TINY_FOLDER stalls Avibe. The machine is a pretended one with a GPU, so that every figure is there; so are
a checkpoint and a server elsewhere.
"""

import os
from dataclasses import replace
from pathlib import Path

from app_production import create_app
from config import settings_or_exit
from engine.types import BackendState, Status
from models import ModelSet
from telemetry.metrics.machine import GpuFigures
from tests.fakes import CHECKPOINT, FakeMachine, ScriptedBackend, elsewhere

STALLED = Path(os.environ["TINY_FOLDER"]) / "stalled"


class StallingBackend(ScriptedBackend):
    """Stalled while the file exists."""

    def state(self):
        return BackendState(Status.STALLED, "the model is stalled") if STALLED.exists() else super().state()

    def stats(self):
        return replace(super().stats(), kv_cache_tokens_used=10, kv_cache_tokens_capacity=100)


machine = FakeMachine(GpuFigures("A GPU", 40 * 1024**3, 50 * 1024**3, 80 * 1024**3, 0.7))
backends = {"avibe": StallingBackend("avibe", identity=CHECKPOINT), "avision": ScriptedBackend("avision")}
app = create_app(settings_or_exit(), ModelSet(backends, upstreams={"avision": elsewhere("closed")}), machine)
