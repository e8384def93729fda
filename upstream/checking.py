"""Holds a whole answer of another server to the rules of its request: servers promise them, and some ignore them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine.errors import UpstreamFailed
from engine.types import AnswerRules
from engine.wanted import Wanted
from upstream.answer_schema import AnswerSchema, try_schemas

HALF_CHARACTER = "\\ud"  # begins the escape of a surrogate, which alone is no text
BROKEN = "The answer does not follow its form. Please try again."


class AnswerCheck:
    """What the answer to a request of this client must be. rules: kept; wanted: what ends the wait for its schemas.

    Raises ValidationError for a schema that is none, Overloaded where too many schemas are being checked, and as
    `wanted` does.
    """

    def __init__(self, rules: AnswerRules | None, client: str = "", wanted: Wanted | None = None) -> None:
        self._rules = rules
        self._schema: AnswerSchema | None = None
        self._arguments: dict[str, AnswerSchema] = {}
        if rules is None:
            return
        wanted = wanted or Wanted(client=client)
        if rules.schema is not None:
            self._schema = AnswerSchema(rules.schema, rules.field, client)
            try_schemas([self._schema], wanted)
        for name, schema in (rules.arguments or {}).items():
            if rules.forced or (rules.strict or {}).get(name):
                self._arguments[name] = AnswerSchema(schema, rules.tools_field, client)
        try_schemas(list(self._arguments.values()), wanted)

    async def check(self, text: str, calls: Sequence[tuple[str, str]], cut: bool) -> None:
        """Raise UpstreamFailed for an answer that breaks the rules. text: without reasoning; cut: it is only a part.

        Raises ValidationError where a schema takes too long, and Overloaded where others' checks do.
        """
        rules = self._rules
        if rules is None or cut:
            return
        if rules.forced and not calls:
            raise UpstreamFailed(BROKEN)
        if not rules.parallel and len(calls) > 1:
            raise UpstreamFailed(BROKEN)
        for name, arguments in calls:
            schema = self._arguments.get(name)
            value = _read(arguments, of_schema=schema is not None)
            if not isinstance(value, dict) or (schema is None and rules.forced):
                raise UpstreamFailed(BROKEN)
            if schema is not None and not await schema.allows(value, arguments):
                raise UpstreamFailed(BROKEN)
        if calls:
            return
        if self._schema is not None and not await self._schema.allows(_read(text), text):
            raise UpstreamFailed(BROKEN)
        if rules.choice and text not in rules.choice:
            raise UpstreamFailed(BROKEN)


def _read(text: str, of_schema: bool = True) -> Any:
    """Return the value of JSON. of_schema: it is held to one, by a library that takes text alone."""
    try:
        value = json.loads(text, parse_constant=_no_json)
        if of_schema and HALF_CHARACTER in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise UpstreamFailed(BROKEN) from None
    return value


def _no_json(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which Python would read
