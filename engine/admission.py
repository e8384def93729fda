"""From a request to a sequence, in the thread that brings it: prepared, and checked against the model's limits."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from engine.backend import Generation
from engine.errors import ContextTooLong, ValidationError
from engine.loading.loader import LoadedModel
from engine.schedule.sequence import Sequence
from engine.text.detokenizer import Detokenizer
from engine.text.prompt import PreparedPrompt
from engine.types import GenerationRequest, SamplingParams


def make_sequence(
    loaded: LoadedModel,
    request: GenerationRequest,
    arrival: float,
    on_abort: Callable[[], None],
    clock: Callable[[], float],
) -> Sequence:
    """Tokenize a request and check it. Raises ValidationError and its kin, with the field to blame.

    arrival: on `clock`, in seconds; on_abort: called when somebody aborts the answer.
    """
    prompt = loaded.preparer.prepare(request.prompt)
    check_lengths(len(prompt.token_ids), request.sampling, loaded.max_model_len)
    if any(not 0 <= token < loaded.vocab_size for token in request.sampling.logit_bias):
        raise ValidationError(f"Token ids must be from 0 to {loaded.vocab_size - 1}.", "logit_bias")
    return sequence_of(loaded, request, prompt, arrival, on_abort, clock)


def sequence_of(
    loaded: LoadedModel,
    request: GenerationRequest,
    prompt: PreparedPrompt,
    arrival: float,
    on_abort: Callable[[], None],
    clock: Callable[[], float],
) -> Sequence:
    """Return the sequence of a prepared prompt."""
    generation = Generation(request.request_id, len(prompt.token_ids), arrival + request.timeout, on_abort, clock)
    detokenizer = Detokenizer(loaded.token_table, request.sampling.stop)
    keys = prefix_keys(prompt, loaded.image_token_id)
    return Sequence(request, prompt.token_ids, generation, detokenizer, arrival, keys, prompt.images)


def check_lengths(prompt_tokens: int, sampling: SamplingParams, max_model_len: int) -> None:
    """Raise ContextTooLong where prompt and answer together do not fit `max_model_len` tokens."""
    if prompt_tokens + sampling.max_tokens > max_model_len:
        raise ContextTooLong(
            f"The prompt ({prompt_tokens} tokens) and the answer ({sampling.max_tokens} tokens) do not fit together "
            f"into this model's context of {max_model_len} tokens.",
            "max_tokens" if prompt_tokens < max_model_len else "prompt",
        )


def prefix_keys(prompt: PreparedPrompt, image_token_id: int | None) -> list[Hashable]:
    """Return a key for each prompt token: its id, or for a picture's tokens the picture's hash and the place in it."""
    if prompt.images is None:
        return list(prompt.token_ids)
    keys: list[Hashable] = []
    picture, place = -1, 0
    for token_id in prompt.token_ids:
        if token_id != image_token_id:
            place = 0
            keys.append(token_id)
            continue
        picture += place == 0
        keys.append((prompt.images.hashes[picture], place))
        place += 1
    return keys
