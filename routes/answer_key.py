"""The key of a request in the answer cache: a hash of whatever its answers depend on.

Equal keys mean equal requests of one account, in one protocol, to one checkpoint. Requests that mean the same and are
written differently may have different keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from engine.text.grammar import GrammarMask
from engine.types import ChatPrompt, EncodedImage, ModelInfo, Prompt, SamplingParams, TextPrompt
from routes.json_writing import pieces

# What says nothing of the answer: the grammar stands for the first two, and neither who named the temperature nor how
# tokens are shown is a matter.
UNTOLD = ("token_mask", "rules", "names_temperature", "return_tokens_as_token_ids")
Answers = Sequence[tuple[Prompt, SamplingParams]]


def key_of(info: ModelInfo, account: str, protocol: str, answers: Answers) -> bytes | None:
    """Return the key of a request, 32 bytes; None if one of its answers may differ from time to time, as those of
    another server may, whose model can change unseen.

    answers: the prompt and the parameters of each. Takes as long as SHA-256 over all texts and images.
    """
    if info.elsewhere or info.or_elsewhere or not all(_deterministic(sampling) for _, sampling in answers):
        return None
    distinct = {id(prompt): prompt for prompt, _ in answers}
    numbers = {key: number for number, key in enumerate(distinct)}
    content = {
        "checkpoint": repr(info),
        "account": account,
        "protocol": protocol,
        "prompts": [_prompt(prompt) for prompt in distinct.values()],
        "answers": [[numbers[id(prompt)], *_sampling(sampling)] for prompt, sampling in answers],
    }
    digest = hashlib.sha256()
    for piece in pieces(content):
        digest.update(piece.encode("utf-8", "surrogatepass"))
    return digest.digest()


def _deterministic(sampling: SamplingParams) -> bool:
    """Return whether the same request gives the same answer again. A mask of unknown origin may change."""
    known = sampling.token_mask is None or isinstance(sampling.token_mask, GrammarMask)
    return known and (sampling.temperature == 0 or sampling.seed is not None)


def _prompt(prompt: Prompt) -> list[Any]:
    if isinstance(prompt, TextPrompt):
        return ["text", prompt.text]
    if not isinstance(prompt, ChatPrompt):
        return ["tokens", repr(prompt.token_ids)]
    content = {one.name: getattr(prompt, one.name) for one in fields(prompt)}
    return ["chat", content | {"images": [_image(image) for image in prompt.images]}]


def _image(image: EncodedImage) -> str:
    return hashlib.sha256(image.data).hexdigest()


def _sampling(sampling: SamplingParams) -> list[Any]:
    content = {one.name: getattr(sampling, one.name) for one in fields(sampling) if one.name not in UNTOLD}
    content["logit_bias"] = sorted(sampling.logit_bias.items())
    mask = sampling.token_mask
    return [content, mask.grammar if isinstance(mask, GrammarMask) else None]
