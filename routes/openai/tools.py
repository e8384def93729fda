"""The functions that a model may or must call, and the grammar that forces a call."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from engine.errors import Unsupported, ValidationError
from engine.text.grammar import JSON_STYLE
from engine.types import ModelInfo
from routes.openai.base import OpenaiRequest
from routes.openai.output import CALL, CALL_END
from routes.validation import BRANCH

MAX_TOOLS = 64
MOST_FORCED_CALLS = 8


class Function(OpenaiRequest):
    """A function. parameters: a JSON schema of its arguments; strict: accepted, forced calls always conform to it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(OpenaiRequest):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function


class FunctionName(OpenaiRequest):
    """The function to call."""

    name: str


class NamedTool(OpenaiRequest):
    """One tool that must be called."""

    type: Literal["function"]
    function: FunctionName


def _word_or_object(value: Any) -> str:
    return f"{BRANCH}named" if isinstance(value, dict) else f"{BRANCH}word"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{BRANCH}word")] | Annotated[NamedTool, Tag(f"{BRANCH}named")],
    Discriminator(_word_or_object),
]


class Toolbox:
    """The tools of one request. Raises ValidationError for a choice that the tools do not allow."""

    def __init__(self, tools: list[Tool] | None, choice: str | NamedTool | None, info: ModelInfo) -> None:
        self._tools = {tool.function.name: tool for tool in tools or []}
        if tools and info.vision:
            raise Unsupported("This model does not use tools.", "tools")
        if len(self._tools) < len(tools or []):
            raise ValidationError("tools has two functions of one name.", "tools")
        if not self._tools and choice not in (None, "none"):
            raise ValidationError("tool_choice needs tools.", "tool_choice")
        if isinstance(choice, NamedTool) and choice.function.name not in self._tools:
            raise ValidationError("tool_choice names a function that is not among the tools.", "tool_choice")
        self._choice = choice or "auto"

    @property
    def names(self) -> frozenset[str]:
        """The functions that the answer may call."""
        return frozenset() if self._choice == "none" else frozenset(self._tools)

    @property
    def shown(self) -> tuple[dict[str, Any], ...]:
        """The tools as a chat template takes them; none if the model may not call any."""
        if self._choice == "none":
            return ()
        return tuple(_shown(tool) for tool in self._tools.values())

    @property
    def forced(self) -> bool:
        """True if the answer must be a call."""
        return self._choice not in ("none", "auto")

    def schemas(self) -> list[dict[str, Any]]:
        """Return the schemas of the functions that a forced call may name."""
        return [_parameters(tool) for tool in self._callable()]

    def lark(self) -> str:
        """Return the grammar of a forced answer: one call of the named function, or one or more calls of any."""
        called = self._callable()
        lines = [f"call_{number}: {_call_rule(tool)}" for number, tool in enumerate(called)]
        one = " | ".join(f"call_{number}" for number in range(len(called)))
        more = "" if isinstance(self._choice, NamedTool) else f' ("\\n" call){{0,{MOST_FORCED_CALLS - 1}}}'
        return "\n".join([f"start: call{more}", f"call: {one}", *lines])

    def _callable(self) -> list[Tool]:
        if isinstance(self._choice, NamedTool):
            return [self._tools[self._choice.function.name]]
        return list(self._tools.values())


def _shown(tool: Tool) -> dict[str, Any]:
    function = tool.function.model_dump(exclude_none=True, exclude={"strict"})
    return {"type": "function", "function": function}


def _parameters(tool: Tool) -> dict[str, Any]:
    return {"type": "object"} | (tool.function.parameters or {"properties": {}, "additionalProperties": False})


def _call_rule(tool: Tool) -> str:
    begin = f'{CALL}\n{{"name": {json.dumps(tool.function.name)}, "arguments": '
    schema = _parameters(tool) | {"x-guidance": JSON_STYLE}
    return f"{json.dumps(begin)} %json {json.dumps(schema)} {json.dumps('}' + chr(10) + CALL_END)}"
