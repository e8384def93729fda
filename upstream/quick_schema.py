"""Which JSON schemas are compiled and validated in time that grows with their length and the value's, no faster.

What is listed here applies each of its subschemas once to each part of a value, and compares single values. Others may
not: references and `unevaluated*` repeat work, patterns take long to compile, `multipleOf` is exact, and so on.
"""

from __future__ import annotations

from typing import Any

PLAIN = frozenset(
    "type enum const required minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength minItems maxItems "
    "minProperties maxProperties $schema $comment title description default examples deprecated readOnly "
    "writeOnly nullable strict discriminator xml externalDocs contentMediaType contentEncoding".split()
)
# Of each one, or a list.
SUBSCHEMAS = frozenset("items prefixItems additionalProperties propertyNames allOf anyOf oneOf not".split())
SLOW_FORMATS = frozenset("regex idn-email idn-hostname".split())


def is_quick(schema: Any) -> bool:
    """Return whether all of a schema is of the kind that takes no longer than its length tells."""
    left = [schema]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            for keyword, value in one.items():
                if keyword in SUBSCHEMAS:
                    left.append(value)
                elif keyword == "properties" and isinstance(value, dict):
                    left += value.values()
                elif not _is_plain(keyword, value):
                    return False
    return True


def _is_plain(keyword: str, value: Any) -> bool:
    if keyword == "format":
        return isinstance(value, str) and value not in SLOW_FORMATS
    return keyword in PLAIN or keyword.startswith("x-")
