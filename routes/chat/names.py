"""The names that a protocol gives to the fields of a request, for errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What a protocol calls its fields; the defaults are the names that most of them have.

    answer_format: of the field that asks for JSON, a choice or another grammar; reasoning: of the one that lets the
    model reason first.
    """

    answer_format: str
    reasoning: str
    messages: str = "messages"
    tools: str = "tools"
    tool_choice: str = "tool_choice"
    ignore_eos: str = "ignore_eos"
    min_tokens: str = "min_tokens"
