"""JSON schemas of requests: their limits, and the grammars that enforce them.

A schema is rewritten first (engine/text/schema/), which refuses what cannot be enforced by keyword and place.
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
from engine.text.schema.emission import Rewritten, rewrite
from engine.text.schema.expander import MAX_WORK, Work
from engine.text.schema.refusal import SchemaRefused
from routes.sse import compact

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_VALUES = 2000
WORK_OF_A_REQUEST = 2 * MAX_WORK  # on all schemas of its tools
BLAME_SECONDS = 1.0


def json_rule(schema: dict[str, Any], field: str, work: Work | None = None) -> str:
    """Return the Lark expression that matches JSON of a schema. field: what a refusal names; work: as `rewritten`.

    Raises ValidationError.
    """
    return f"%json {json.dumps(rewritten(schema, field, work).schema | {'x-guidance': JSON_STYLE})}"


@cache
def any_object_rule() -> str:
    """Return the Lark expression that matches any JSON object."""
    return json_rule({"type": "object"}, "")


def schema_grammar(schema: Any, field: str) -> str:
    """Return the grammar of JSON of a schema. field: what a refusal names. Raises ValidationError."""
    return json_grammar(json.dumps(rewritten(schema, field).schema))


def rewritten(schema: Any, field: str, work: Work | None = None) -> Rewritten:
    """Return a schema as the grammar library takes it. field: what a refusal names; work: what it may take, shared
    with others of its request, None for the work of one. Raises ValidationError.
    """
    check_schema(schema, field)
    try:
        return rewrite(schema, work)
    except SchemaRefused as refusal:
        raise ValidationError(f"{field} {refusal.message}.", field) from None


def blamed(schemas: dict[str, Any], clock: Callable[[], float] = time.monotonic) -> ValidationError | None:
    """Return the refusal of the part of some schemas, by the fields that have them, that is too hard to match.

    The search takes BLAME_SECONDS at most, on `clock`; then the longest pattern is named.
    """
    until, work = clock() + BLAME_SECONDS, Work(WORK_OF_A_REQUEST)

    def has_time() -> bool:
        return clock() < until

    refusals = {}
    for field, schema in schemas.items():
        refusals[field] = rewritten(schema, field, work).blamed(has_time)
        if not has_time():
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
