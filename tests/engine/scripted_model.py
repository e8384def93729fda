"""A model for the reference backend whose `generate()` follows a script: nothing is computed, everything can fail."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import torch

# How long a test waits for another thread before it fails, in seconds.
PATIENCE = 10.0


class ScriptedModel:
    """Stands in for a transformers model: `generate()` asks the stopping criterion after each token, without end.

    on_token: called before each token with its number in the answer; it may raise, block or turn a clock.
    logits: what `generate()` shows to a logits processor and to the check before ready.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, token_id, vocab_size, on_token=None, logits=0.0):
        self.token_id = token_id
        self.on_token = on_token or (lambda number: None)
        self.logits = torch.full((1, vocab_size), logits)
        self.prompts = []

    def generate(self, input_ids, generation_config, stopping_criteria=None, logits_processor=(), **inputs):
        """Answer until the criterion says that it is enough."""
        if stopping_criteria is None:
            return SimpleNamespace(logits=(self.logits,))
        self.prompts.append(input_ids[0].tolist())
        for number in range(generation_config.max_new_tokens):
            self.on_token(number)
            for processor in logits_processor:
                processor(input_ids, self.logits)
            input_ids = torch.cat([input_ids, torch.tensor([[self.token_id]])], dim=1)
            if bool(stopping_criteria(input_ids, None).all()):
                return input_ids
        raise AssertionError("the answer was not ended")


class Gate:
    """Lets a test hold the model between two tokens: `reached` by the model, then `open`ed by the test."""

    def __init__(self):
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self, number):
        self._reached.set()
        assert self._opened.wait(PATIENCE)

    def wait_until_reached(self):
        """Wait until the model stands at the gate."""
        assert self._reached.wait(PATIENCE)

    def open(self):
        """Let the model pass, now and from now on."""
        self._opened.set()


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def scripted(loaded, **script):
    """Return a loader that hands out a real loaded model with a scripted one in place of its network."""
    model = ScriptedModel(200, loaded.vocab_size, **script)
    return lambda spec, report, max_model_len: replace(loaded, model=model)
