"""The functions that a model may or must call, and the grammar that forces a call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

from engine.errors import Unsupported, ValidationError
from engine.text.prompt_size import check_unshown
from engine.text.schema.elsewhere import outcome_of
from engine.text.schema.expander import Work
from engine.types import ModelInfo
from routes.chat.names import FieldNames
from routes.chat.output import CALL, CALL_END, REASONING, THINK
from routes.chat.schemas import WORK_OF_A_REQUEST, Rewriter, any_object_rule, json_rule

MAX_TOOLS = 128
MOST_CALLS = 8  # of an answer that follows a grammar


class Schemas(Enum):
    """Which arguments of calls must conform to their function's schema; the others are any object.

    Those of strict functions always do.
    """

    ALL = auto()
    WHERE_POSSIBLE = auto()
    STRICT = auto()


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function. parameters: a JSON schema of its arguments; path: where that stands in the request; strict: as asked.

    Forced calls always conform to the schema, free ones to that of a strict function.
    """

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    path: str
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class NamedChoice:
    """One function that must be called."""

    name: str


Choice = Literal["auto", "none", "required"] | NamedChoice


class Toolbox:
    """The tools of one request. choice: None for a request that makes none, which is free; parallel: whether an answer
    may have several calls. Raises ValidationError for a choice that the tools do not allow.
    """

    def __init__(
        self,
        tools: Sequence[FunctionTool],
        choice: Choice | None,
        parallel: bool,
        info: ModelInfo,
        names: FieldNames,
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        if tools and choice != "none" and not info.uses_tools:
            raise Unsupported(f"This model's chat template has no {names.tools}.", names.tools)
        if len(self._tools) < len(tools):
            raise ValidationError(f"{names.tools} has two functions of one name.", names.tools)
        if not self._tools and choice not in (None, "none", "auto"):
            raise ValidationError(f"{names.tool_choice} needs {names.tools}.", names.tool_choice)
        if isinstance(choice, NamedChoice) and choice.name not in self._tools:
            raise ValidationError(
                f"{names.tool_choice} names a function that is not among the {names.tools}.", names.tool_choice
            )
        if choice == "none":
            check_unshown([_shown(tool) for tool in tools], names.tools, info.max_model_len)
        self._choice: Choice = choice or "auto"
        self.parallel = parallel

    @property
    def given(self) -> bool:
        """True if the request has tools, though the model may not be allowed to call any."""
        return bool(self._tools)

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

    @property
    def call(self) -> str:
        """`auto`, `required`, or the name of the one function that must be called."""
        return self._choice.name if isinstance(self._choice, NamedChoice) else self._choice

    def arguments(self) -> dict[str, dict[str, Any]]:
        """Return the schemas of the functions that the answer may call, by name."""
        return {} if self._choice == "none" else {name: _parameters(tool) for name, tool in self._tools.items()}

    def strict(self) -> dict[str, bool]:
        """Return what the request says of functions being strict, by name."""
        return {name: tool.strict for name, tool in self._tools.items() if tool.strict is not None}

    @property
    def sole(self) -> str:
        """The only function that a forced call can name, "" if there are several or none is forced."""
        called = self._callable() if self.forced else []
        return called[0].name if len(called) == 1 else ""

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the schemas of the functions that a forced call may name, by where they stand in the request."""
        return {tool.path: _parameters(tool) for tool in self._callable()}

    def strict_schemas(self) -> dict[str, dict[str, Any]]:
        """Return those of the strict functions that a free call may name."""
        if self._choice == "none":
            return {}
        return {tool.path: _parameters(tool) for tool in self._tools.values() if tool.strict}

    def lark(self, schemas: Schemas, rewriter: Rewriter = outcome_of) -> str:
        """Return the Lark rule `calls`: one call, or several where that is allowed, and the rules that it needs.

        Raises ValidationError for the first schema that cannot be enforced, and as `rewriter` does.
        """
        several = self.parallel and not isinstance(self._choice, NamedChoice)
        more = f' ("\\n" call){{0,{MOST_CALLS - 1}}}' if several else ""
        return "\n".join(
            [f"calls: call{more}", f"call: {json.dumps(CALL)} called", self._called_lark(schemas, rewriter)]
        )

    def free_lark(self, thinking: bool, rewriter: Rewriter = outcome_of) -> str:
        """Return the Lark grammar of a free answer: any text with calls in it, or where one is allowed, at its end.

        thinking: it may begin with reasoning, in which nothing is a call. Raises as `lark` does.
        """
        rest = "(begin called)* text" if self.parallel else "(text | begin called)"
        lines = [f"start: {rest}", "text: /(.|\\n)*/", f"begin[lazy]: /(.|\\n)*{CALL}/"]
        if thinking:
            more = " (begin called)* text" if self.parallel else ""
            lines[0] = f"start: reasoning line_breaks {rest} | text | first called{more}"
            lines += [REASONING, "first[lazy]: FIRST", f"FIRST: /(.|\\n)*{CALL}/ & ~/{THINK}(.|\\n)*/"]
        return "\n".join([*lines, self._called_lark(Schemas.STRICT, rewriter)])

    def _called_lark(self, schemas: Schemas, rewriter: Rewriter) -> str:
        """Return the Lark rule `called`: a call behind its tag, and the rules that it needs."""
        held, work = list[str](), Work(WORK_OF_A_REQUEST)
        loose = list[str]()  # the names of functions whose arguments are any object
        for tool in self._callable():
            arguments = _arguments_rule(tool, schemas, work, rewriter)
            if arguments is None:
                loose.append(json.dumps(json.dumps(tool.name)))
            else:
                held.append(_called(json.dumps(json.dumps(tool.name)), arguments))
        lines = [f"called_{number}: {rule}" for number, rule in enumerate(held)]
        alternatives = [f"called_{number}" for number in range(len(held))]
        if loose:
            alternatives.append("loose")
            lines += [
                f"loose: {_called('name', 'object')}",
                f"name: {' | '.join(loose)}",
                f"object: {any_object_rule()}",
            ]
        return "\n".join([f"called: {' | '.join(alternatives)}", *lines])

    def _callable(self) -> list[FunctionTool]:
        if isinstance(self._choice, NamedChoice):
            return [self._tools[self._choice.name]]
        return list(self._tools.values())


def _shown(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


def _parameters(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "object"} | (tool.parameters or {"properties": {}, "additionalProperties": False})


def _called(name: str, arguments: str) -> str:
    """Return the Lark expression of a call behind its tag. name, arguments: Lark expressions."""
    begin, middle, end = map(json.dumps, ('\n{"name": ', ', "arguments": ', f"}}\n{CALL_END}"))
    return f"{begin} {name} {middle} {arguments} {end}"


def _arguments_rule(tool: FunctionTool, schemas: Schemas, work: Work, rewriter: Rewriter) -> str | None:
    """Return the Lark expression of the arguments of a call, None for any object."""
    if schemas is Schemas.STRICT and not tool.strict:
        return None
    try:
        return json_rule(_parameters(tool), tool.path, work, rewriter)
    except ValidationError:
        if schemas is Schemas.WHERE_POSSIBLE and not tool.strict:
            return None
        raise
