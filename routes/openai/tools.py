"""The tools of a request as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from engine.types import ModelInfo
from routes.chat.names import FieldNames
from routes.chat.toolbox import MAX_TOOLS, Choice, FunctionTool, NamedChoice, Toolbox
from routes.openai.base import OpenaiRequest
from routes.openai.tool_choice import ALLOWED, some_of, usual
from routes.passed_over import TOOL
from routes.validation import BRANCH


class Function(OpenaiRequest):
    """A function. parameters: a JSON schema of its arguments; strict: free calls conform to it, as forced ones do."""

    passed_over = TOOL

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(OpenaiRequest):
    """A tool; functions are the only kind."""

    passed_over = TOOL

    type: Literal["function"] | None = None
    function: Function


class FunctionName(OpenaiRequest):
    """The function to call."""

    name: str


class NamedTool(OpenaiRequest):
    """One tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class AllowedFunctions(OpenaiRequest):
    """The functions that may be called, or one of which must be; the others are not shown to the model."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class SomeTools(OpenaiRequest):
    """Some of the tools, among which the model may or must choose."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


def kind_of_choice(value: Any) -> str:
    """Tell a word, some of the tools and one tool apart."""
    if not isinstance(value, dict):
        return f"{BRANCH}word"
    return f"{BRANCH}allowed" if value.get("type") == ALLOWED else f"{BRANCH}named"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{BRANCH}word")]
    | Annotated[SomeTools, Tag(f"{BRANCH}allowed")]
    | Annotated[NamedTool, Tag(f"{BRANCH}named")],
    Discriminator(kind_of_choice),
    BeforeValidator(partial(usual, nested=True)),
]


def toolbox(
    tools: Sequence[Tool] | None,
    choice: Literal["none", "auto", "required"] | SomeTools | NamedTool | None,
    parallel: bool | None,
    info: ModelInfo,
    names: FieldNames,
) -> Toolbox:
    """Return the tools of a request. Raises as `Toolbox` does."""
    functions = [_function(tool.function, f"tools[{index}]") for index, tool in enumerate(tools or ())]
    chosen: Choice | None
    match choice:
        case NamedTool():
            chosen = NamedChoice(choice.function.name)
        case SomeTools():
            said = choice.allowed_tools
            allowed = [tool.function.name for tool in said.tools]
            chosen, functions = said.mode, some_of(functions, allowed, "tool_choice.allowed_tools.tools")
        case _:
            chosen = choice
    return Toolbox(functions, chosen, parallel is not False, info, names)


def _function(function: Function, path: str) -> FunctionTool:
    where = f"{path}.function.parameters"
    return FunctionTool(function.name, function.description, function.parameters, where, function.strict)
