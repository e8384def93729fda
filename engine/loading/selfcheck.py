"""The self-check before a model is ready: fixed prompts must give finite logits.

float16 can overflow for a model trained in bfloat16: its logits become NaN, and every answer one repeated token. This
stops the start with the name of the setting to change, so that it never reaches a client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from math import isqrt

import torch
from PIL import Image

from engine.errors import StartError
from engine.text.prompt import PreparedPrompt, PromptPreparer
from engine.types import ChatPrompt, EncodedImage, ModelSpec, Prompt

_TEXTS = ("Привет!", "Write a listing for a used bicycle, red, in good condition, with a price.")
_IMAGE_SIZES = ((64, 64), (448, 336), (300, 900))  # pixels: small, usual, tall


def check_logits(
    spec: ModelSpec, preparer: PromptPreparer, logits_of: Callable[[PreparedPrompt], torch.Tensor], longest: int
) -> None:
    """Run every fixed prompt of at most `longest` tokens.

    logits_of: returns the logits of one prompt [..., vocabulary], at any number of positions. Raises StartError if a
    prompt fails, a logit is not finite, or no prompt is short enough.
    """
    finite = [
        _is_finite(spec, logits_of, prepared)
        for prepared in map(preparer.prepare, fixed_prompts(spec.vision))
        if len(prepared.token_ids) <= longest
    ]
    if not finite:
        raise StartError(f"MAX_MODEL_LEN: {longest} tokens are too few for a greeting to {spec.name}.")
    if not all(finite):
        raise StartError(_not_finite(spec))


def _is_finite(spec: ModelSpec, logits_of: Callable[[PreparedPrompt], torch.Tensor], prompt: PreparedPrompt) -> bool:
    try:
        return bool(torch.isfinite(logits_of(prompt)).all())
    except Exception as error:  # a model can fail in any way on its first prompt
        raise StartError(
            f"{spec.dir_setting}: {spec.name} from {spec.model_dir} failed on its first prompt "
            f"({type(error).__name__})."
        ) from error


def fixed_prompts(vision: bool) -> Iterator[Prompt]:
    """Yield the prompts of the check: texts, and for a vision model images of several sizes."""
    for text in _TEXTS:
        yield ChatPrompt(({"role": "user", "content": text},))
    if vision:
        for width, height in _IMAGE_SIZES:
            yield _about(_image(width, height))


def largest_prompts(preparer: PromptPreparer, tokens: int, longest: int) -> Iterator[PreparedPrompt]:
    """Yield prompts of fewer than `longest` tokens: one of up to `tokens`, and for a vision model the largest image."""
    yield PreparedPrompt([0] * min(tokens, longest - 1))
    if preparer.image_pixels is not None:
        side = isqrt(preparer.image_pixels)
        prompt = preparer.prepare(_about(_image(side, side)))
        if len(prompt.token_ids) < longest:
            yield prompt


def _about(image: EncodedImage) -> ChatPrompt:
    content = [{"type": "image"}, {"type": "text", "text": "Что на картинке?"}]
    return ChatPrompt(({"role": "user", "content": content},), (image,))


def _image(width: int, height: int) -> EncodedImage:
    """Return an image with every brightness in each channel: crossed gradients."""
    across = Image.linear_gradient("L").resize((width, height))
    along = Image.radial_gradient("L").resize((width, height))
    data = BytesIO()
    Image.merge("RGB", (across, along, across.transpose(Image.Transpose.FLIP_TOP_BOTTOM))).save(data, "PNG")
    return EncodedImage(data.getvalue(), width, height)


def _not_finite(spec: ModelSpec) -> str:
    if spec.dtype == "float16":
        return f"{spec.name} gives logits that are not finite in float16: set {spec.dtype_setting}=bfloat16."
    return (
        f"{spec.dir_setting}: {spec.name} gives logits that are not finite in {spec.weights}: the weights in "
        f"{spec.model_dir} are damaged, or {spec.dtype_setting} is wrong for them."
    )
