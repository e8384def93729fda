"""The tools of a request as Anthropic's clients send them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.errors import Unsupported, ValidationError
from engine.types import ModelInfo
from routes.anthropic.requests import AnyChoice, CustomTool, FreeChoice, NoChoice, OneChoice
from routes.chat.names import FieldNames
from routes.chat.toolbox import MAX_TOOLS, Choice, FunctionTool, NamedChoice, Toolbox
from routes.json_values import shown_name

ToolChoice = FreeChoice | AnyChoice | OneChoice | NoChoice


def toolbox(
    tools: Sequence[CustomTool] | None,
    choice: ToolChoice | None,
    info: ModelInfo,
    names: FieldNames,
    loaded: Collection[str] = (),
) -> Toolbox:
    """Return the tools of a request. loaded: the names of those that are not deferred any more.

    Raises as `Toolbox` does, Unsupported for tools that Anthropic defines, ValidationError for more than the model can
    be told of.
    """
    known = {*loaded, choice.name} if isinstance(choice, OneChoice) else loaded
    given = [(tool, _function(tool, f"tools[{index}]")) for index, tool in enumerate(tools or ())]
    functions = [function for tool, function in given if not tool.defer_loading or tool.name in known]
    if len(functions) > MAX_TOOLS:
        raise ValidationError(f"tools may have at most {MAX_TOOLS} that are not deferred.", "tools")
    parallel = choice is None or isinstance(choice, NoChoice) or not choice.disable_parallel_tool_use
    return Toolbox(functions, _choice(choice, bool(functions)), parallel, info, names)


def _choice(choice: ToolChoice | None, tools: bool) -> Choice | None:
    match choice:
        case FreeChoice():
            return "auto" if tools else None  # a free choice among no tools is none
        case AnyChoice():
            return "required"
        case OneChoice():
            return NamedChoice(choice.name)
        case NoChoice():
            return "none"
    return None


def _function(tool: CustomTool, path: str) -> FunctionTool:
    if tool.type not in (None, "custom"):
        raise Unsupported(
            f"{path}.type: {shown_name(tool.type or '')} is not a tool that this service knows; "
            "describe it as a custom tool, with an input_schema.",
            f"{path}.type",
        )
    if tool.input_schema is None:
        raise ValidationError(f"{path}.input_schema is required.", f"{path}.input_schema")
    return FunctionTool(tool.name, tool.description, tool.input_schema, f"{path}.input_schema", tool.strict)
