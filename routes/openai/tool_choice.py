"""The spellings of `tool_choice` in which clients write what a protocol writes in its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.errors import ValidationError
from routes.chat.toolbox import FunctionTool

WORDS = ("none", "auto", "required", "any")
ALLOWED = "allowed_tools"


def usual(choice: Any, nested: bool) -> Any:
    """Return a choice in a protocol's form, and one that is wrong as it is.

    nested: whether a name stands in an object of its own, as in chats, or beside the type, as in responses.
    """
    if not isinstance(choice, dict):
        return "required" if choice == "any" else choice
    kind = choice.get("type")
    if kind == ALLOWED:
        return _allowed(choice, nested)
    return usual(kind, nested) if kind in WORDS else _named(choice, nested)


def some_of(tools: Sequence[FunctionTool], allowed: Sequence[str], path: str) -> list[FunctionTool]:
    """Return the functions that a choice allows. Raises ValidationError for one that is not among the tools.

    path: where the choice has its list.
    """
    names = {tool.name for tool in tools}
    for index, name in enumerate(allowed):
        if name not in names:
            where = f"{path}[{index}]"
            raise ValidationError(f"{where} names a function that is not among the tools.", where)
    return [tool for tool in tools if tool.name in allowed]


def _allowed(choice: dict[str, Any], nested: bool) -> Any:
    inner = choice.get(ALLOWED)
    said = inner if isinstance(inner, dict) else {name: choice[name] for name in ("mode", "tools") if name in choice}
    if isinstance(tools := said.get("tools"), list):
        said = said | {"tools": [_named(tool, nested) for tool in tools]}
    return {"type": ALLOWED} | ({ALLOWED: said} if nested else said)


def _named(choice: Any, nested: bool) -> Any:
    if not isinstance(choice, dict) or choice.get("type") != "function":
        return choice
    kind, function = choice["type"], choice.get("function")
    if nested and function is None and "name" in choice:
        return {"type": kind, "function": {"name": choice["name"]}}
    if not nested and isinstance(function, dict) and "name" in function:
        return {"type": kind, "name": function["name"]}
    return choice
