"""The application as operators run it, but its engine stops after HELD_AT tokens until the sequence is aborted."""

import threading

from app_production import app
from engine.model.runner import ModelRunner

HELD_AT = 100  # tokens
TICK = 0.02

__all__ = ["app"]

run = ModelRunner.run


def held_run(runner, plan):
    """Compute a step, once no sequence in it is held."""
    pause = threading.Event()
    while any(one.num_output >= HELD_AT and not one.generation.aborted for one, _ in plan.rows):
        pause.wait(TICK)
    return run(runner, plan)


ModelRunner.run = held_run
