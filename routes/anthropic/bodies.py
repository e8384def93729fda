"""The bodies of answers of /v1/messages, as typed dictionaries: what is sent is what OpenAPI describes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field

from edge.bodies import Body, Cost

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnswerText(Body):
    """A text."""

    type: Literal["text"]
    text: str


class AnswerThinking(Body):
    """Reasoning; signature: for clients that expect one."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class AnswerToolUse(Body):
    """A call; input: its arguments, or what there is of them if the answer was cut in the call."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = AnswerText | AnswerThinking | AnswerToolUse


class ThinkingTokensDetails(Body):
    """Tokens of the answer that are reasoning, with the marks of its beginning and its end."""

    thinking_tokens: int


class MessageUsage(Body):
    """Counts of tokens: those of the prompt are `input_tokens`, and those found in the prefix cache beside them."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: NotRequired[ThinkingTokensDetails]
    cost: NotRequired[Cost]


class MessageAnswer(Body):
    """An answer. Streamed, it comes as the events that Anthropic's clients read."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: Annotated[str | None, Field(description="Which of `stop_sequences` ended the answer.")]
    usage: MessageUsage


class TokenCount(Body):
    """How many tokens a prompt has, with its tools and images."""

    input_tokens: int
