"""What an answer must conform to, in the words of its request. No torch here.

An engine of ours is given a mask of tokens instead; a server that decodes by itself is told the rules, and its answer
is held to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ANY_OBJECT: dict[str, Any] = {"type": "object"}  # the schema of JSON objects without one of their own


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """The rules of an answer. field: where its form stands in the request, as refusals name it.

    schema: a JSON schema; regex: a regular expression of the whole answer; choice: the texts that are allowed; lark: a
    grammar; at most one of these. call: `auto`, `required`, or the name of the one function to be called; arguments:
    the schemas of the functions by name; strict: what the request says, by name, of whether a free call must conform to
    them, too; strict_schema: the same of an answer to `schema`, which here always conforms; parallel: whether it may
    have several calls; tools_field: what refusals call the functions.
    """

    field: str = ""
    schema: Mapping[str, Any] | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    lark: str | None = None
    call: str = "auto"
    arguments: Mapping[str, Mapping[str, Any]] | None = None
    strict: Mapping[str, bool] | None = None
    strict_schema: bool | None = None
    parallel: bool = True
    tools_field: str = "tools"

    @property
    def forced(self) -> bool:
        """Whether the answer must be a call."""
        return self.call != "auto"
