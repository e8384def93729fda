"""Kinds of items and tools that OpenAI's service has and this one does not, refused by their names before all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import Unsupported
from routes.json_values import shown_name
from routes.openai.responses.items import ITEM_TYPES, MAX_ITEMS
from routes.openai.responses.requests import INCLUDED
from routes.openai.tool_choice import WORDS


def refuse_unsupported(body: Mapping[str, Any]) -> None:
    """Raise Unsupported for the first kind that the service does not have. body: not validated yet."""
    for index, item in enumerate(_listed(body, "input")[:MAX_ITEMS]):
        _check_item(_type_of(item), f"input[{index}]")
    for index, tool in enumerate(_listed(body, "tools")):
        if _type_of(tool) == "namespace":
            _check_tools(_listed(tool, "tools"), f"tools[{index}].tools")
        else:
            _check_tools([tool], "tools", index)
    chosen = _type_of(body.get("tool_choice"))
    if chosen not in (None, "function", "allowed_tools", *WORDS):
        raise Unsupported(_no_tool(chosen), "tool_choice")
    for index, name in enumerate(_listed(body, "include")):
        if isinstance(name, str) and name not in INCLUDED:
            raise Unsupported(f"{shown_name(name)} cannot be included here.", f"include[{index}]")


def _check_item(kind: str | None, path: str) -> None:
    if kind == "item_reference":
        raise Unsupported(
            "Items cannot be referred to: send the item itself, which clients do with store: false, or name the "
            "response in previous_response_id.",
            path,
        )
    if kind not in (None, *ITEM_TYPES):
        raise Unsupported(f"Items of the type {kind} are not read here.", path)


def _check_tools(tools: Sequence[Any], path: str, first: int = 0) -> None:
    for index, tool in enumerate(tools, first):
        if _type_of(tool) not in (None, "function"):
            raise Unsupported(_no_tool(_type_of(tool)), f"{path}[{index}]")


def _no_tool(kind: str | None) -> str:
    return f"Tools of the type {kind} are not run here; functions are the only ones."


def _listed(body: Mapping[str, Any], name: str) -> list[Any]:
    value = body.get(name)
    return value if isinstance(value, list) else []


def _type_of(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return shown_name(kind) if isinstance(kind, str) else None
