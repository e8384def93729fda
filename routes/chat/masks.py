"""The mask of a request's answers, compiled within its context: who asks, and whether it is still wanted."""

from __future__ import annotations

from dataclasses import replace

from engine.backend import Backend
from engine.errors import ValidationError
from routes.chat.answer_format import MAX_CHARACTERS, AnswerFormat
from routes.chat.grammars import MAX_FORCED_CHARACTERS, NewMask, new_mask
from routes.chat.names import FieldNames
from routes.chat.sampling import Sampling
from routes.chat.schemas import check_schema
from routes.chat.toolbox import Toolbox
from routes.generation_run import watching
from routes.services import services
from routes.sse import compact


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
    if toolbox.forced and thinking:
        raise ValidationError(f"{names.reasoning} cannot be combined with a forced call.", names.reasoning)
    fixed = answer_format is not None or toolbox.forced
    constrained = fixed or bool(toolbox.strict_schemas())
    lengthens = names.ignore_eos if sampling.ignore_eos else names.min_tokens if sampling.min_tokens else None
    if constrained and lengthens:
        other = "an answer of a fixed form" if fixed else "strict functions"
        raise ValidationError(f"{lengthens} cannot be combined with {other}.", lengthens)
    if backend.info.elsewhere:  # it is told the rules
        _check_sizes(answer_format, toolbox, names)
        return lambda: None
    if lengthens:  # no grammar goes on behind its end
        return lambda: None
    shared = services().settings.engine.prefix_sharing == "all"
    with watching() as wanted:
        owner = "" if shared else wanted.client
        return new_mask(answer_format, toolbox, names, backend, services().grammars, wanted, owner, thinking)


def uncut(sampling: Sampling, answer_format: AnswerFormat | None, toolbox: Toolbox) -> Sampling:
    """Return how an answer is sampled: without stop strings where a part of it would be worth nothing.

    They would be found within JSON, and in the tags and names of a forced call, of which no client knows.
    """
    whole = toolbox.forced or (answer_format is not None and answer_format.whole)
    return replace(sampling, stop=()) if whole else sampling


def _check_sizes(answer_format: AnswerFormat | None, toolbox: Toolbox, names: FieldNames) -> None:
    """Raise ValidationError for rules that are larger than those of a model here may be.

    They are written into the request to the server, and the answer is checked against them here. What they say is for
    the server to judge.
    """
    schemas = toolbox.schemas() if toolbox.forced else toolbox.strict_schemas()
    for path, schema in schemas.items():
        check_schema(schema, path)
    if sum(len(compact(schema)) for schema in schemas.values()) > MAX_FORCED_CHARACTERS:
        most = MAX_FORCED_CHARACTERS // 1024
        raise ValidationError(f"{names.tools} are too long. Maximum: {most} KiB", names.tools)
    if answer_format is not None and not toolbox.forced:
        field = answer_format.field
        if answer_format.schema is not None:
            check_schema(answer_format.schema, field)
        texts = (answer_format.regex or "", answer_format.lark or "", *answer_format.choice)
        if sum(map(len, texts)) > MAX_CHARACTERS:
            raise ValidationError(f"{field} is too long. Maximum: {MAX_CHARACTERS // 1024} KiB", field)
