"""JSON schemas of requests: their limits, and the grammars that enforce them.

A schema is rewritten first (engine/text/schema/), which refuses what cannot be enforced by keyword and place. Where
that is done, its caller says: a `Rewriter`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from engine.errors import ValidationError
from engine.text.grammar import JSON_STYLE, json_grammar
from engine.text.prompt_size import is_longer
from engine.text.schema.elsewhere import Job, Outcome, outcome_of
from engine.text.schema.expander import MAX_WORK, Work
from routes.sse import compact

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_VALUES = 2000
WORK_OF_A_REQUEST = 2 * MAX_WORK  # on all schemas of its tools
BLAME_SECONDS = 1.0

Rewriter = Callable[[Job], Outcome]


def json_rule(schema: dict[str, Any], field: str, work: Work | None = None, rewriter: Rewriter = outcome_of) -> str:
    """Return the Lark expression that matches JSON of a schema. The others: as of `rewritten`.

    Raises ValidationError.
    """
    return f"%json {json.dumps(rewritten(schema, field, work, rewriter) | {'x-guidance': JSON_STYLE})}"


@cache
def any_object_rule() -> str:
    """Return the Lark expression that matches any JSON object."""
    return json_rule({"type": "object"}, "")


def schema_grammar(schema: Any, field: str, rewriter: Rewriter = outcome_of) -> str:
    """Return the grammar of JSON of a schema. The others: as of `rewritten`. Raises ValidationError."""
    return json_grammar(json.dumps(rewritten(schema, field, None, rewriter)))


def rewritten(schema: Any, field: str, work: Work | None = None, rewriter: Rewriter = outcome_of) -> dict[str, Any]:
    """Return a schema as the grammar library takes it. field: what a refusal names; work: what it may take, shared
    with others of its request, None for the work of one. Raises ValidationError, and as `rewriter` does.
    """
    check_schema(schema, field)
    outcome = _outcome(rewriter, schema, work or Work(), field)
    if outcome.schema is None:
        raise ValidationError(f"{field} {outcome.message}.", field)
    return outcome.schema


def _outcome(rewriter: Rewriter, schema: Any, work: Work, field: str, blame_seconds: float | None = None) -> Outcome:
    try:
        outcome = rewriter(Job(schema, work.left, blame_seconds))
    except ValidationError as error:
        raise ValidationError(f"{field} {error.message}.", field) from None
    work.left = outcome.work
    return outcome


def blamed(schemas: dict[str, Any], rewriter: Rewriter = outcome_of) -> ValidationError | None:
    """Return the refusal of the part of some schemas, by the fields that have them, that is too hard to match.

    The search takes BLAME_SECONDS at most; then the longest pattern is named. Raises as `rewriter` does.
    """
    until, work = time.monotonic() + BLAME_SECONDS, Work(WORK_OF_A_REQUEST)
    refusals = dict[str, Outcome]()
    for field, schema in schemas.items():
        left = until - time.monotonic()
        refusals[field] = _outcome(rewriter, schema, work, field, max(0.0, left))
        if time.monotonic() >= until:
            break
    named = {field: refusal for field, refusal in refusals.items() if refusal.keyword in ("pattern", "format")}
    for field, refusal in (named or refusals).items():
        return ValidationError(f"{field} {refusal.message}.", field)
    return None


def check_schema(schema: Any, field: str) -> None:
    """Raise ValidationError for a schema that is too long, too deep or too large to compile.

    It is written as a text, in one call that holds the interpreter lock, only once it is known to be small.
    """
    too_long = ValidationError(f"{field} is too long. Maximum: {MAX_SCHEMA_BYTES // 1024} KiB", field)
    if is_longer([schema], MAX_SCHEMA_BYTES):
        raise too_long
    values = 0
    level = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        values += len(level)
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            break
    if level:
        raise ValidationError(f"{field} is nested too deeply. Maximum: {MAX_SCHEMA_DEPTH} levels", field)
    if values > MAX_SCHEMA_VALUES:
        raise ValidationError(f"{field} is too large. Maximum: {MAX_SCHEMA_VALUES} values", field)
    if len(compact(schema).encode()) > MAX_SCHEMA_BYTES:
        raise too_long


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
