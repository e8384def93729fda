"""One answer through the library's own `generate()`: how it is called, how it is watched, how it samples.

Greedy, this is `generate(do_sample=False)` and nothing else, which makes it the oracle of the engine's tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.loading.loader import LoadedModel
from engine.text.detokenizer import Detokenizer
from engine.text.prompt import PreparedPrompt
from engine.types import FinishReason, Piece, SamplingParams


class NotFinite(Exception):
    """The model gave a logit that is not a number."""


class Answer(StoppingCriteria):
    """Follows one answer: `generate()` calls it after every token, with all ids so far.

    push: takes each part that may be shown. check: called before each token counts; what it raises ends the answer.
    """

    def __init__(
        self, loaded: LoadedModel, sampling: SamplingParams, push: Callable[[Piece], None], check: Callable[[], None]
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self.text = ""
        self.output_tokens = 0
        self._ends = frozenset() if sampling.ignore_eos else loaded.eos_token_ids
        self._max_tokens = sampling.max_tokens
        self._detokenizer = Detokenizer(loaded.token_table, sampling.stop)
        self._push = push
        self._check = check
        self._unsent: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Take the newest token of `input_ids` [1, T]; return [1], True once the answer is complete.

        On CUDA the library looks at the result one step late and asks again: the answer then stays as it is.
        """
        if self.finish_reason is None:
            self._check()
            self._take(int(input_ids[0, -1]))
        return torch.tensor([self.finish_reason is not None], device=input_ids.device)

    def _take(self, token_id: int) -> None:
        self.output_tokens += 1
        self._unsent.append(token_id)
        text = self._detokenizer.add(token_id)
        if token_id in self._ends or self._detokenizer.stopped:
            self.finish_reason = "stop"
        elif self.output_tokens >= self._max_tokens:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self._detokenizer.flush()
        if text or self.finish_reason is not None:
            self.text += text
            self._push(Piece(text, tuple(self._unsent)))
            self._unsent = []


def generate(loaded: LoadedModel, prompt: PreparedPrompt, sampling: SamplingParams, answer: Answer) -> None:
    """Run the model to the end of one answer. Raises NotFinite and whatever `answer` or the model raises."""
    model: Any = loaded.model
    model.generate(
        **model_inputs(loaded, prompt),
        generation_config=_plain_config(loaded, sampling.max_tokens),
        stopping_criteria=StoppingCriteriaList([answer]),
        logits_processor=LogitsProcessorList(_processors(sampling, len(prompt.token_ids))),
    )


def first_logits(loaded: LoadedModel, prompt: PreparedPrompt, tokens: int = 4) -> torch.Tensor:
    """Return the raw logits of the first few greedy tokens, [tokens, vocabulary]."""
    model: Any = loaded.model
    output = model.generate(
        **model_inputs(loaded, prompt),
        generation_config=_plain_config(loaded, tokens, output_logits=True, return_dict_in_generate=True),
    )
    return torch.cat(output.logits)


def model_inputs(loaded: LoadedModel, prompt: PreparedPrompt) -> dict[str, Any]:
    """Return what the library's processor would hand to `generate()` for this prompt, on the model's device."""
    device = loaded.model.device
    ids = torch.tensor([prompt.token_ids], device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.images is not None:
        inputs["mm_token_type_ids"] = (ids == loaded.model.config.image_token_id).int()
        inputs["pixel_values"] = prompt.images.pixel_values.to(device, loaded.model.dtype)
        inputs["image_grid_thw"] = prompt.images.grid_thw.to(device)
    return inputs


def _plain_config(loaded: LoadedModel, max_new_tokens: int, **more: bool) -> GenerationConfig:
    """Return a greedy configuration in which no token ends an answer: that is `Answer`'s business.

    What is left open here the library fills in from the model's own configuration, hence an end token that no model
    can choose.
    """
    config: Any = GenerationConfig
    plain: GenerationConfig = config(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=loaded.vocab_size, **more
    )
    return plain


def _processors(sampling: SamplingParams, prompt_tokens: int) -> list[LogitsProcessor]:
    """Return what happens to the logits of each step, in the library's own order."""
    processors: list[LogitsProcessor] = [_FiniteCheck()]
    if sampling.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias:
        processors.append(_Adjust(sampling, prompt_tokens))
    if sampling.temperature > 0:
        processors += _warpers(sampling)
    return processors


def _warpers(sampling: SamplingParams) -> list[LogitsProcessor]:
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        warpers.append(TopPLogitsWarper(float(sampling.top_p)))
    if sampling.min_p > 0.0:
        warpers.append(MinPLogitsWarper(float(sampling.min_p)))
    return [*warpers, _Draw(sampling.seed)]


class _FiniteCheck(LogitsProcessor):
    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if not bool(torch.isfinite(scores).all()):
            raise NotFinite
        return scores


class _Adjust(LogitsProcessor):
    """Logit bias, and the penalties on tokens of the answer so far, as the OpenAI API defines them."""

    def __init__(self, sampling: SamplingParams, prompt_tokens: int) -> None:
        self._sampling = sampling
        self._prompt_tokens = prompt_tokens

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores = scores.clone()
        for token_id, bias in self._sampling.logit_bias.items():
            scores[0, token_id] += bias
        counts = torch.bincount(input_ids[0, self._prompt_tokens :], minlength=scores.shape[1])
        return scores - self._sampling.frequency_penalty * counts - self._sampling.presence_penalty * (counts > 0)


class _Draw(LogitsProcessor):
    """Draws the token with a generator of its own and leaves only that one, for the library's argmax to find.

    The library would draw from the process's one generator, which other threads use too: seeds would mean nothing.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generator: torch.Generator | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        if self._generator is None:
            self._generator = torch.Generator(scores.device)
            _ = self._generator.seed() if self._seed is None else self._generator.manual_seed(self._seed)
        chosen = torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
