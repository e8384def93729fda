"""From a request to a sequence, in the caller's thread: tokenized, and checked against the model's limits."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from engine.backend import Generation
from engine.errors import ContextTooLong, Message, ValidationError
from engine.prefix_scopes import PrefixScopes
from engine.schedule.sequence import Sequence
from engine.text.detokenizer import Detokenizer
from engine.text.prompt_size import check_prompt_size
from engine.types import GenerationRequest, QueuePosition, SamplingParams, TokensPrompt
from engine.wanted import Wanted

PREPARED = TokensPrompt(())  # in the place of a prompt that has been prepared

if TYPE_CHECKING:
    from engine.loading.loader import LoadedModel
    from engine.text.prompt import PreparedPrompt

WITHIN_CLIENTS = PrefixScopes()


def make_sequence(
    loaded: LoadedModel,
    request: GenerationRequest,
    arrival: float,
    on_abort: Callable[[], None],
    clock: Callable[[], float],
    queue_position: Callable[[GenerationRequest], QueuePosition | None] = lambda request: None,
    scopes: PrefixScopes = WITHIN_CLIENTS,
    wanted: Wanted | None = None,
) -> Sequence:
    """Tokenize a request and check it. Raises ValidationError or a subclass, with the field at fault.

    The sequence does not keep the prompt, whose images and texts may be large.

    arrival: on `clock`, in seconds; on_abort: called when the answer is aborted; queue_position: where it waits;
    scopes: whose cached prefixes it may reuse; wanted: ends the work early, with its own errors.
    """
    check_prompt_size(request.prompt, loaded.max_model_len)
    prompt = loaded.preparer.prepare(request.prompt, wanted)
    sampling = request.sampling.within(loaded.max_model_len - len(prompt.token_ids))
    _check_lengths(len(prompt.token_ids), sampling, loaded.max_model_len)
    if any(not 0 <= token < loaded.vocab_size for token in request.sampling.logit_bias):
        raise ValidationError(f"Token ids must be from 0 to {loaded.vocab_size - 1}.", "logit_bias")
    bare = replace(request, prompt=PREPARED, sampling=sampling)
    position = partial(queue_position, bare)
    return sequence_of(loaded, bare, prompt, arrival, on_abort, clock, position, scopes)


def sequence_of(
    loaded: LoadedModel,
    request: GenerationRequest,
    prompt: PreparedPrompt,
    arrival: float,
    on_abort: Callable[[], None],
    clock: Callable[[], float],
    queue_position: Callable[[], QueuePosition | None] = lambda: None,
    scopes: PrefixScopes = WITHIN_CLIENTS,
) -> Sequence:
    """Return the sequence of a prepared prompt."""
    generation = Generation(
        request.request_id,
        len(prompt.token_ids),
        arrival + request.timeout,
        on_abort,
        clock,
        queue_position,
        request.sampling.max_tokens,
        tuple(prompt.token_ids) if request.sampling.return_token_ids else (),
    )
    table = loaded.token_table if request.sampling.token_mask is None else loaded.token_table.literal
    detokenizer = Detokenizer(table, () if request.sampling.min_tokens else request.sampling.stop)
    keys = prefix_keys(prompt, loaded.image_token_id)
    scope = scopes.of(request.client, prompt.token_ids)
    return Sequence(
        request,
        prompt.token_ids,
        generation,
        detokenizer,
        arrival,
        keys,
        prompt.images,
        scope,
        end_token_ids=loaded.eos_token_ids,
        spelling=loaded.spelling,
    )


def _check_lengths(prompt_tokens: int, sampling: SamplingParams, max_model_len: int) -> None:
    """Raise ContextTooLong if prompt and answer together exceed `max_model_len` tokens."""
    if prompt_tokens + sampling.max_tokens > max_model_len:
        raise ContextTooLong(
            Message(
                "context_exceeded",
                "The prompt ({prompt} tokens) and the answer ({answer} tokens) do not fit together "
                "into this model's context of {n} tokens.",
                prompt=prompt_tokens,
                answer=sampling.max_tokens,
                n=max_model_len,
            ),
            "max_tokens" if prompt_tokens < max_model_len else "prompt",
            max_model_len,
            prompt_tokens,
        )


def prefix_keys(prompt: PreparedPrompt, image_token_id: int | None) -> list[Hashable]:
    """Return a key for each prompt token: its id, or for an image's tokens the image's hash and the offset in it."""
    if prompt.images is None:
        return list(prompt.token_ids)
    keys: list[Hashable] = []
    image, offset = -1, 0
    for token_id in prompt.token_ids:
        if token_id != image_token_id:
            offset = 0
            keys.append(token_id)
            continue
        image += offset == 0
        keys.append((prompt.images.hashes[image], offset))
        offset += 1
    return keys
