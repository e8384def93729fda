"""Compiles what an answer must conform to, its form or forced calls, into the masks of its tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from engine.backend import Backend
from engine.errors import NotReady, ServiceError, Unsupported, ValidationError
from engine.text.grammar import Grammars, lark_grammar
from engine.types import Status, TokenMask
from engine.wanted import Wanted
from routes.chat.answer_format import AnswerFormat
from routes.chat.names import FieldNames
from routes.chat.schemas import blamed
from routes.chat.toolbox import Toolbox
from routes.sse import compact

MAX_FORCED_CHARACTERS = 256 * 1024  # of the schemas of all functions that one answer may call

NewMask = Callable[[], TokenMask | None]


class GrammarCache:
    """The compiled grammars of every model, each built by the first request that needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the field below
        self._by_model: dict[str, Grammars] = {}

    def for_model(self, backend: Backend, field: str) -> Grammars:
        """Return a model's grammars. field: what a refusal names.

        Raises Unsupported if the model cannot follow any, NotReady while it is loading.
        """
        name = backend.info.name
        with self._lock:
            if name not in self._by_model:
                vocabulary = backend.vocabulary()
                if vocabulary is None:
                    raise _refusal(backend, field)
                self._by_model[name] = Grammars(vocabulary)
            return self._by_model[name]

    def size(self) -> tuple[int, int]:
        """Return how many compiled grammars are kept, and their bytes."""
        with self._lock:
            all_grammars = list(self._by_model.values())
        return sum(one.cached for one in all_grammars), sum(one.cached_bytes for one in all_grammars)


def _refusal(backend: Backend, field: str) -> ServiceError:
    if backend.state().status is Status.READY:
        return Unsupported("This model cannot hold its answer to a form.", field)
    return NotReady("The model is not ready.")


def new_mask(
    answer_format: AnswerFormat | None,
    toolbox: Toolbox,
    names: FieldNames,
    backend: Backend,
    cache: GrammarCache,
    wanted: Wanted,
    owner: str,
) -> NewMask:
    """Return a function that makes the mask of one answer. Raises ServiceError with the field that is wrong, and as
    `wanted` does. owner: who may find the compiled grammar again.
    """
    field, grammar = _grammar(answer_format, toolbox, names)
    if grammar is None:
        return lambda: None
    grammars = cache.for_model(backend, names.answer_format)
    try:
        grammars.mask(grammar, wanted, field, owner)  # compiles it now, while the request's thread waits
    except ValidationError as error:
        raise blamed(_schemas(answer_format, toolbox)) or ValidationError(f"{field} {error.message}.", field) from None
    return lambda: grammars.mask(grammar, field=field, owner=owner)


def _schemas(answer_format: AnswerFormat | None, toolbox: Toolbox) -> dict[str, Any]:
    """Return the schemas that an answer must conform to, by their fields."""
    if toolbox.forced:
        return toolbox.schemas()
    if answer_format is None or answer_format.schema is None:
        return {}
    return {answer_format.field: answer_format.schema}


def _grammar(answer_format: AnswerFormat | None, toolbox: Toolbox, names: FieldNames) -> tuple[str, str | None]:
    """Return the field that asks for a grammar, and the grammar; None for an answer that is free."""
    if toolbox.forced:
        if answer_format is not None:
            raise ValidationError(
                f"{names.answer_format} and a forced {names.tool_choice} contradict each other.", names.answer_format
            )
        lark = toolbox.lark()
        if sum(len(compact(schema)) for schema in toolbox.schemas().values()) > MAX_FORCED_CHARACTERS:
            raise ValidationError(
                f"{names.tools} are too long. Maximum: {MAX_FORCED_CHARACTERS // 1024} KiB", names.tools
            )
        return names.tools, lark_grammar(lark)
    if answer_format is None:
        return names.answer_format, None
    if toolbox.names:
        raise ValidationError(f"{names.answer_format} and {names.tools} cannot be combined here.", names.answer_format)
    return answer_format.field, answer_format.grammar()
