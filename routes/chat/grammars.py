"""Compiles what an answer must conform to, its form or forced calls, into the masks of its tokens."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge import turns
from engine.backend import Backend
from engine.errors import NotReady, RetryLater, ServiceError, Unsupported, ValidationError
from engine.text.compile_queue import CompileQueue
from engine.text.grammar import GrammarRefused, Grammars, lark_grammar
from engine.text.grammar_trials import NoTrials, Trials
from engine.text.prompt_size import is_longer
from engine.types import Status, TokenMask
from engine.wanted import Wanted
from routes.chat.answer_format import AnswerFormat
from routes.chat.names import FieldNames
from routes.chat.output import MAY_REASON, REASONING
from routes.chat.rewriting import Rewriting
from routes.chat.schemas import Rewriter, blamed, check_schema
from routes.chat.toolbox import Schemas, Toolbox
from routes.sse import compact

MAX_FORCED_CHARACTERS = 256 * 1024  # of the schemas of all functions that one answer may call

NewMask = Callable[[], TokenMask | None]


class GrammarCache:
    """The compiled grammars of every model, each built by the first request that needs it. trials: of new ones.

    All models share the threads that compile, as they share the processes of the trials. rewriting: of schemas.
    """

    def __init__(self, trials: Trials | None = None) -> None:
        self._trials, self._compilers = trials, CompileQueue()
        self.rewriting = Rewriting(trials or NoTrials())
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
                self._by_model[name] = Grammars(vocabulary, trials=self._trials, compilers=self._compilers)
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
    thinking: bool = False,
) -> NewMask:
    """Return a function that makes the mask of one answer. Raises ServiceError with the field that is wrong, and as
    `wanted` does. owner: who may find the compiled grammar again; thinking: the answer may begin with reasoning.
    """
    if answer_format is None and not toolbox.forced and not toolbox.strict_schemas():
        if toolbox.names and not toolbox.parallel:
            return _one_call(toolbox, names, backend, cache, wanted, owner, thinking)
        return lambda: None
    field = names.tools if answer_format is None or toolbox.forced else answer_format.field
    for path, schema in _schemas(answer_format, toolbox).items():
        check_schema(schema, path)
    grammars = cache.for_model(backend, field.partition(".")[0])  # before schemas are rewritten, which takes long
    rewriter = cache.rewriting.of_request(wanted)
    plan = _plan(answer_format, toolbox, names, rewriter, thinking)
    try:
        return _compile(plan, grammars, wanted, owner)
    except ValidationError:
        if answer_format is None or toolbox.forced or not toolbox.names:
            raise
        # Few free calls must conform: the schemas of all tools together may be what is too much.
        plan = _either(answer_format, toolbox, Schemas.STRICT, rewriter, thinking)
        return _compile(plan, grammars, wanted, owner)


def _one_call(
    toolbox: Toolbox,
    names: FieldNames,
    backend: Backend,
    cache: GrammarCache,
    wanted: Wanted,
    owner: str,
    thinking: bool,
) -> NewMask:
    """Return what holds a free answer to one call; without it the parser shows the first alone."""
    grammar = lark_grammar(toolbox.free_lark(thinking))
    try:
        grammars = cache.for_model(backend, names.tools)
        turns.leave()  # grammars are compiled elsewhere
        return grammars.masks(grammar, wanted, names.tools, owner)
    except (ValidationError, RetryLater):
        return lambda: None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A grammar, the field that asks for it, and what finds the part to blame if it does not compile, given the place
    of its mistake.
    """

    field: str
    grammar: str
    refused: Callable[[str | None], ValidationError | None]


def _schemas(answer_format: AnswerFormat | None, toolbox: Toolbox) -> dict[str, Any]:
    """Return the schemas that the answer must conform to, by the fields that have them."""
    if toolbox.forced:
        return dict(toolbox.schemas())
    form = {} if answer_format is None or answer_format.schema is None else {answer_format.field: answer_format.schema}
    return {**form, **toolbox.strict_schemas()}


def _plan(
    answer_format: AnswerFormat | None, toolbox: Toolbox, names: FieldNames, rewriter: Rewriter, thinking: bool
) -> _Plan:
    """Return the plan of an answer that has a form, is to be a call, or either, or may have calls of strict functions.

    Raises ValidationError for schemas that cannot be enforced, or are too long together.
    """
    must = toolbox.schemas() if toolbox.forced else toolbox.strict_schemas()
    if not _bounded(must):
        raise ValidationError(f"{names.tools} are too long. Maximum: {MAX_FORCED_CHARACTERS // 1024} KiB", names.tools)
    if toolbox.forced:  # whatever form a text should have has nothing to do
        lark = f"start: calls\n{toolbox.lark(Schemas.ALL, rewriter)}"
        return _Plan(names.tools, lark_grammar(lark), lambda _: blamed(must, rewriter))
    if answer_format is None:
        lark = toolbox.free_lark(thinking, rewriter)
        return _Plan(names.tools, lark_grammar(lark), lambda _: blamed(must, rewriter))
    if toolbox.names:
        schemas = Schemas.WHERE_POSSIBLE if _bounded(toolbox.schemas()) else Schemas.STRICT
        return _either(answer_format, toolbox, schemas, rewriter, thinking)
    refused = partial(answer_format.refused, rewriter=rewriter)
    return _Plan(answer_format.field, answer_format.grammar(rewriter, thinking), refused)


def _compile(plan: _Plan, grammars: Grammars, wanted: Wanted, owner: str) -> NewMask:
    """Compile a grammar while the request's thread waits. Raises ValidationError that names the field."""
    turns.leave()  # grammars are compiled elsewhere, but small schemas are rewritten here
    try:
        return grammars.masks(plan.grammar, wanted, plan.field, owner)
    except ValidationError as error:
        place = error.place if isinstance(error, GrammarRefused) else None
        raise plan.refused(place) or ValidationError(f"{plan.field} {error.message}.", plan.field) from None


def _bounded(schemas: dict[str, dict[str, Any]]) -> bool:
    each = list(schemas.values())
    if is_longer(each, MAX_FORCED_CHARACTERS):
        return False
    return sum(len(compact(schema)) for schema in each) <= MAX_FORCED_CHARACTERS


def _either(answer_format: AnswerFormat, toolbox: Toolbox, tools: Schemas, rewriter: Rewriter, thinking: bool) -> _Plan:
    """Return the plan of an answer that consists of calls, or has the form."""
    answer, calls = answer_format.lark_rule(rewriter), toolbox.lark(tools, rewriter)
    begin, reasoning = (f"{MAY_REASON} ", REASONING) if thinking else ("", "")
    lark = f"start: {begin}(calls | answer)\nanswer: {answer}\n{calls}\n{reasoning}"

    def refused(place: str | None) -> ValidationError | None:
        return answer_format.refused(place, rewriter) or blamed(toolbox.strict_schemas(), rewriter)

    return _Plan(answer_format.field, lark_grammar(lark), refused)
