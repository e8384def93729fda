"""Which JSON schemas are compiled and validated in time that grows with their length and the value's, no faster.

What is listed here applies each of its subschemas once to each part of a value, and compares single values. Others may
not: references and `unevaluated*` repeat work, patterns take long to compile, `multipleOf` is exact, and so on.
"""

from __future__ import annotations

from typing import Any

PLAIN = frozenset(
    "type enum const required minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength minItems maxItems "
    "minProperties maxProperties $schema $comment title description default examples deprecated readOnly "
    "writeOnly".split()
)
SUBSCHEMAS = frozenset("items prefixItems additionalProperties allOf anyOf oneOf not".split())  # one, or a list
FORMATS = frozenset("date-time date time email hostname ipv4 ipv6 uri uuid".split())


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
                elif keyword not in PLAIN and not (keyword == "format" and _is_quick_format(value)):
                    return False
    return True


def _is_quick_format(value: Any) -> bool:
    return isinstance(value, str) and value in FORMATS
