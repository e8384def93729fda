"""The request bodies of /v1/messages, as models that validate them and describe them in OpenAPI.

A field's description completes "<field> must be ...". `passed_over` holds what is accepted beside the fields here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field

from routes.anthropic.base import CHOICE, COUNT, OUTPUT, THINKING, AnthropicRequest, Passing
from routes.anthropic.blocks import Texts, Turn
from routes.anthropic.history import MESSAGES
from routes.chat.body_limits import MAX_STOPS
from routes.passed_over import FORMAT
from routes.validation import conversation_of

MAX_TURNS = 1024
MAX_TOOLS = 1024  # with those that are deferred, of which the model is not told


class CustomTool(Passing):
    """A tool that the client runs. type: absent or `custom`; tools that Anthropic runs are refused by name.

    defer_loading: the model is told of it once a search of the client has found it; strict: free calls conform
    to the schema, as forced ones do.
    """

    type: str | None = None
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    defer_loading: bool | None = None
    strict: bool | None = None


class Choice(AnthropicRequest):
    """How tools are chosen."""

    passed_over = CHOICE


class FreeChoice(Choice):
    """The model decides whether it calls tools."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = None


class AnyChoice(Choice):
    """The model must call a tool, or several."""

    type: Literal["any"]
    disable_parallel_tool_use: bool | None = None


class OneChoice(Choice):
    """The model must call this tool."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Choice):
    """The model calls no tool."""

    type: Literal["none"]


ToolChoiceObject = Annotated[FreeChoice | AnyChoice | OneChoice | NoChoice, Discriminator("type")]


class Thinking(AnthropicRequest):
    """Whether the model may reason first. `adaptive`: it may, unless the answer has a fixed form or has begun already.

    budget_tokens is passed over. display: `omitted` sends the block of the reasoning without its text.
    """

    passed_over = THINKING

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    display: str | None = None


class JsonSchemaOutput(AnthropicRequest):
    """JSON that conforms to a schema."""

    model_config = ConfigDict(populate_by_name=True)

    passed_over = FORMAT

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(AnthropicRequest):
    """The form of the answer; `effort` is passed over."""

    passed_over = OUTPUT

    format: JsonSchemaOutput | None = None


class CountTokensRequest(AnthropicRequest):
    """A prompt whose tokens are counted; what only an answer has is passed over."""

    passed_over = COUNT

    model: Annotated[str, Field(max_length=256, description="the id of a model, see /v1/models")]
    messages: Annotated[
        list[Turn],
        Field(min_length=1, max_length=MAX_TURNS, fail_fast=True),
        BeforeValidator(MESSAGES.readable),
        BeforeValidator(conversation_of(MAX_TURNS)),
    ]
    system: Texts | None = Field(None, description="a text, or a list of text blocks")
    tools: Annotated[list[CustomTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoiceObject | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonSchemaOutput | None = None


class MessagesRequest(CountTokensRequest):
    """A conversation to answer. Absent sampling fields take the checkpoint's values."""

    as_absent = {"top_k": -1}

    max_tokens: Annotated[int, Field(ge=1, description="an integer of at least 1")]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="a number from 0 to 2")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="a number from 0 to 1")
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="an integer from 1 to 1000000, or 0 for no limit"
    )
    stop_sequences: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]],
            Field(max_length=MAX_STOPS, fail_fast=True),
        ]
        | None
    ) = Field(None, description=f"at most {MAX_STOPS} texts of 1 to 256 characters")
    stream: bool | None = Field(None, description="true or false")
