"""The check before a model is called ready: fixed prompts must give finite logits.

Half precision can overflow where a model was trained in bfloat16: its logits turn into not-a-number, and every answer
into one repeated token. That must stop the start, by the name of the setting that mends it, not reach a client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO

import torch
from PIL import Image

from engine.errors import StartError
from engine.text.prompt import PreparedPrompt, PromptPreparer
from engine.types import ChatPrompt, EncodedImage, ModelSpec, Prompt

_TEXTS = ("Привет!", "Write a listing for a used bicycle, red, in good condition, with a price.")
_PICTURE_SIZES = ((64, 64), (448, 336), (300, 900))  # pixels: small, usual, tall


def check_logits(
    spec: ModelSpec, preparer: PromptPreparer, logits_of: Callable[[PreparedPrompt], torch.Tensor], longest: int
) -> None:
    """Run every fixed prompt of at most `longest` tokens. Raises StartError where one fails, gives a logit that is not
    finite, or where none is that short.

    logits_of: returns raw logits of one prompt [..., vocabulary], at any number of positions.
    """
    finite = [
        _is_finite(spec, logits_of, prepared)
        for prepared in map(preparer.prepare, fixed_prompts(spec.vision))
        if len(prepared.token_ids) <= longest
    ]
    if not finite:
        raise StartError(f"MAX_MODEL_LEN: {longest} tokens are too few even for a greeting to {spec.name}.")
    if not all(finite):
        raise StartError(_not_finite(spec))


def _is_finite(spec: ModelSpec, logits_of: Callable[[PreparedPrompt], torch.Tensor], prompt: PreparedPrompt) -> bool:
    try:
        return bool(torch.isfinite(logits_of(prompt)).all())
    except Exception as error:  # whatever a model does on its first prompt
        raise StartError(
            f"{spec.dir_setting}: {spec.name} from {spec.model_dir} failed on its first prompt "
            f"({type(error).__name__})."
        ) from error


def fixed_prompts(vision: bool) -> Iterator[Prompt]:
    """Yield the prompts of the check: texts, and for a vision model pictures of several sizes."""
    for text in _TEXTS:
        yield ChatPrompt(({"role": "user", "content": text},))
    if vision:
        for width, height in _PICTURE_SIZES:
            content = [{"type": "image"}, {"type": "text", "text": "Что на картинке?"}]
            yield ChatPrompt(({"role": "user", "content": content},), (_picture(width, height),))


def _picture(width: int, height: int) -> EncodedImage:
    """Return a picture with every brightness in each channel: gradients, crossed."""
    across = Image.linear_gradient("L").resize((width, height))
    along = Image.radial_gradient("L").resize((width, height))
    data = BytesIO()
    Image.merge("RGB", (across, along, across.transpose(Image.Transpose.FLIP_TOP_BOTTOM))).save(data, "PNG")
    return EncodedImage(data.getvalue(), width, height)


def _not_finite(spec: ModelSpec) -> str:
    if spec.dtype == "float16":
        return f"{spec.name} gives logits that are not finite in float16: set {spec.dtype_setting}=bfloat16."
    return (
        f"{spec.dir_setting}: {spec.name} gives logits that are not finite in {spec.dtype}: the weights in "
        f"{spec.model_dir} are damaged, or {spec.dtype_setting} is wrong for them."
    )
