"""Functions that a request groups under the name of a namespace, as Codex sends them.

The model knows such a function by one name, `namespace.function`; clients are told both parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.errors import ValidationError
from engine.text.prompt_size import check_repeated
from routes.chat.toolbox import MAX_TOOLS, FunctionTool
from routes.openai.responses.requests import FunctionTool as AskedFunction
from routes.openai.responses.requests import Namespace

# By the name that the model knows: the namespace and the function's own name.
Namespaces = Mapping[str, tuple[str, str]]


def full_name(namespace: str | None, name: str) -> str:
    """Return the name by which the model knows a function."""
    return name if namespace is None else f"{namespace}.{name}"


def functions(tools: Sequence[AskedFunction | Namespace], max_model_len: int) -> list[FunctionTool]:
    """Return the functions with those of namespaces.

    Raises ValidationError for too many of them, and ContextTooLong where what is said of their namespaces would not fit
    into a prompt of `max_model_len` tokens once each of them repeats it.
    """
    spaces = [asked for asked in tools if isinstance(asked, Namespace)]
    if len(tools) - len(spaces) + sum(len(space.tools) for space in spaces) > MAX_TOOLS:
        raise ValidationError(f"tools must have at most {MAX_TOOLS} functions.", "tools")
    check_repeated(sum(len(space.description or "") * len(space.tools) for space in spaces), "tools", max_model_len)
    return [tool for index, asked in enumerate(tools) for tool in _functions(asked, f"tools[{index}]")]


def namespaces(tools: Sequence[AskedFunction | Namespace]) -> Namespaces:
    """Return the parts of the names that have two."""
    return {
        full_name(tool.name, function.name): (tool.name, function.name)
        for tool in tools
        if isinstance(tool, Namespace)
        for function in tool.tools
    }


def _functions(asked: AskedFunction | Namespace, path: str) -> Iterator[FunctionTool]:
    if isinstance(asked, AskedFunction):
        yield FunctionTool(asked.name, asked.description, asked.parameters, f"{path}.parameters", asked.strict)
        return
    for index, tool in enumerate(asked.tools):
        # The model reads of functions alone, so what is said of all of them stands before each.
        said = "\n".join(text for text in (asked.description, tool.description) if text) or None
        name = full_name(asked.name, tool.name)
        yield FunctionTool(name, said, tool.parameters, f"{path}.tools[{index}].parameters", tool.strict)
