"""The spellings of `tool_choice` in which clients write what a protocol writes in its own."""

from __future__ import annotations

from typing import Any

WORDS = ("none", "auto", "required", "any")


def usual(choice: Any, nested: bool) -> Any:
    """Return a choice in a protocol's form, and one that is wrong as it is.

    nested: whether a name stands in an object of its own, as in chats, or beside the type, as in responses.
    """
    if not isinstance(choice, dict):
        return "required" if choice == "any" else choice
    kind, function = choice.get("type"), choice.get("function")
    if kind != "function":
        return usual(kind, nested) if kind in WORDS else choice
    if nested and function is None and "name" in choice:
        return {"type": kind, "function": {"name": choice["name"]}}
    if not nested and isinstance(function, dict) and "name" in function:
        return {"type": kind, "name": function["name"]}
    return choice
