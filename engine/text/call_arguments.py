"""The arguments of a tool call as the JSON object that they are, or would have been: calls can be cut."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import from_json


def whole_object(arguments: str) -> dict[str, Any] | None:
    """Return the object of arguments that are whole, None for any other text."""
    try:
        found = json.loads(arguments, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def begun_object(arguments: str) -> dict[str, Any]:
    """Return the object of arguments, of ones that were cut what there is of it; empty for any other text."""
    whole = whole_object(arguments)
    if whole is not None:
        return whole
    try:
        found = from_json(arguments.encode("utf-8", "replace"), allow_inf_nan=False, allow_partial=True)
        json.dumps(found, allow_nan=False)  # a number beyond the range of floats has become infinite
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
