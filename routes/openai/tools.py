"""The tools of a request as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from engine.types import ModelInfo
from routes.chat.names import FieldNames
from routes.chat.toolbox import Choice, FunctionTool, NamedChoice, Toolbox
from routes.openai.base import OpenaiRequest
from routes.openai.tool_choice import usual
from routes.passed_over import TOOL
from routes.validation import BRANCH


class Function(OpenaiRequest):
    """A function. parameters: a JSON schema of its arguments; strict: accepted, forced calls always conform to it."""

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


def _word_or_object(value: Any) -> str:
    return f"{BRANCH}named" if isinstance(value, dict) else f"{BRANCH}word"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{BRANCH}word")] | Annotated[NamedTool, Tag(f"{BRANCH}named")],
    Discriminator(_word_or_object),
    BeforeValidator(partial(usual, nested=True)),
]


def toolbox(
    tools: Sequence[Tool] | None,
    choice: Literal["none", "auto", "required"] | NamedTool | None,
    parallel: bool | None,
    info: ModelInfo,
    names: FieldNames,
) -> Toolbox:
    """Return the tools of a request. Raises as `Toolbox` does."""
    functions = [_function(tool.function, f"tools[{index}]") for index, tool in enumerate(tools or ())]
    chosen: Choice | None = NamedChoice(choice.function.name) if isinstance(choice, NamedTool) else choice
    return Toolbox(functions, chosen, parallel is not False, info, names)


def _function(function: Function, path: str) -> FunctionTool:
    return FunctionTool(function.name, function.description, function.parameters, f"{path}.function.parameters")
