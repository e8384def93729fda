"""The mask of a request's answers, compiled within its context: who asks, and whether it is still wanted."""

from __future__ import annotations

from engine.backend import Backend
from engine.errors import ValidationError
from routes.chat.answer_format import AnswerFormat
from routes.chat.grammars import NewMask, new_mask
from routes.chat.names import FieldNames
from routes.chat.sampling import Sampling
from routes.chat.toolbox import Toolbox
from routes.generation_run import watching
from routes.services import services


def mask_of(
    answer_format: AnswerFormat | None,
    toolbox: Toolbox,
    names: FieldNames,
    sampling: Sampling,
    backend: Backend,
    thinking: bool = False,
) -> NewMask:
    """Return a function that makes the mask of each answer.

    Raises ServiceError, also for what an answer of a fixed form cannot be combined with.
    """
    constrained = answer_format is not None or toolbox.forced
    if constrained and thinking:
        raise ValidationError("Reasoning cannot be combined with an answer of a fixed form.", names.reasoning)
    lengthens = names.ignore_eos if sampling.ignore_eos else names.min_tokens if sampling.min_tokens else None
    if constrained and lengthens:
        raise ValidationError(f"{lengthens} cannot be combined with an answer of a fixed form.", lengthens)
    if backend.info.elsewhere:  # it is told the rules
        return lambda: None
    if lengthens:  # no grammar goes on behind its end
        return lambda: None
    shared = services().settings.engine.prefix_sharing == "all"
    with watching() as wanted:
        owner = "" if shared else wanted.client
        return new_mask(answer_format, toolbox, names, backend, services().grammars, wanted, owner)
