"""One request at a time: the `generate` of transformers under a lock, which the engine is compared with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from engine.backend import Generation
from engine.loading.loader import LoadedModel, load_model
from engine.text.detokenizer import Detokenizer
from engine.text.prompt import PreparedPrompt
from engine.types import Completion, FinishReason, GenerationRequest, ModelSpec, SamplingParams, Timings

OnText = Callable[[str], object]


class OneByOne:
    """A loaded checkpoint; thread-safe. Of the sampling parameters only temperature, length and end tokens apply."""

    def __init__(self, spec: ModelSpec, max_model_len: int) -> None:
        self._loaded = load_model(spec, lambda progress: None, max_model_len)
        self._lock = threading.Lock()  # guards the model: `generate` keeps state on it

    def submit(self, request: GenerationRequest) -> Generation:
        """Generate the whole answer in this thread and return it."""
        completion = self.answer(request, lambda text: None)
        generation = Generation(request.request_id, completion.prompt_tokens, time.monotonic(), lambda: None)
        generation.finish(completion)
        return generation

    def answer(self, request: GenerationRequest, on_text: OnText) -> Completion:
        """Wait for the lock, generate and return the answer. on_text: called with each new part of it."""
        arrival = time.monotonic()
        prompt = self._loaded.preparer.prepare(request.prompt)
        follower = _Follower(self._loaded, request.sampling, on_text)
        with self._lock:
            started = time.monotonic()
            _generate(self._loaded, prompt, request.sampling, follower)
        first = None if follower.first is None else follower.first - arrival
        timings = Timings(started - arrival, first, time.monotonic() - arrival)
        return Completion(follower.text, follower.reason, len(prompt.token_ids), follower.tokens, timings)


class _Follower(StoppingCriteria):
    """Called by `generate` after every token: decides when the answer is complete and passes on its text."""

    def __init__(self, loaded: LoadedModel, sampling: SamplingParams, on_text: OnText) -> None:
        self._ends = frozenset() if sampling.ignore_eos else loaded.eos_token_ids
        self._detokenizer = Detokenizer(loaded.token_table)
        self._on_text = on_text
        self.text, self.tokens = "", 0
        self.first: float | None = None
        self.reason: FinishReason = "length"

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Take the newest token of `input_ids` [1, T]; return [1], True once the answer is complete."""
        token_id = int(input_ids[0, -1])
        self.tokens += 1
        self.first = self.first or time.monotonic()
        ended = token_id in self._ends
        if text := self._detokenizer.add(token_id):
            self.text += text
            self._on_text(text)
        self.reason = "stop" if ended else "length"
        return torch.tensor([ended], device=input_ids.device)


def _generate(loaded: LoadedModel, prompt: PreparedPrompt, sampling: SamplingParams, follower: _Follower) -> None:
    model: Any = loaded.model
    device = model.device
    ids = torch.tensor([prompt.token_ids], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.images is not None:
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        inputs["pixel_values"] = prompt.images.pixel_values().to(device, model.dtype)
        inputs["image_grid_thw"] = prompt.images.grid_thw.to(device)
    model.generate(
        **inputs,
        generation_config=_config(loaded, sampling),
        stopping_criteria=StoppingCriteriaList([follower]),
    )


def _config(loaded: LoadedModel, sampling: SamplingParams) -> GenerationConfig:
    """Return the sampling settings; the end token is out of the vocabulary, because the follower ends answers."""
    config: Any = GenerationConfig
    chosen = {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature else {"do_sample": False}
    plain: GenerationConfig = config(max_new_tokens=sampling.max_tokens, eos_token_id=loaded.vocab_size, **chosen)
    return plain
