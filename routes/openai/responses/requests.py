"""The request body of POST /v1/responses, as models that validate it and describe it in OpenAPI.

`passed_over` holds what is accepted beside the fields here; `refusals` what is refused before they are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag

from keys.written import WHOLE
from routes.chat.toolbox import MAX_TOOLS
from routes.openai.base import OpenaiRequest
from routes.openai.requests import LENGTH, Length, OneOrMoreStops
from routes.openai.responses.items import Input
from routes.openai.responses.passed_over import QUERY, REASONING, REQUEST, TEXT, TOOL
from routes.openai.tool_choice import usual
from routes.openai.tools import kind_of_choice
from routes.validation import BRANCH, few

MAX_METADATA = 16
MAX_PAGE = 100
LOGPROBS = "message.output_text.logprobs"
# What `include` may name; all but the first ask for what an answer or a list of items has here in any case, or never.
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "web_search_call.action.sources",
    "web_search_call.results",
]
INCLUDED = get_args(Included)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class FunctionTool(OpenaiRequest):
    """A function. parameters: a JSON schema of its arguments; strict: free calls conform to it, as forced ones do."""

    passed_over = TOOL

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Namespace(OpenaiRequest):
    """Functions under a common name, which is shown in their calls."""

    passed_over = TOOL

    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS, fail_fast=True)]


AnyTool = Annotated[FunctionTool | Namespace, Discriminator("type")]


class NamedFunction(OpenaiRequest):
    """One function that must be called, or may be."""

    type: Literal["function"]
    name: str


class AllowedTools(OpenaiRequest):
    """The functions that may be called, or one of which must be; the others are not shown to the model."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunction], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{BRANCH}word")]
    | Annotated[AllowedTools, Tag(f"{BRANCH}allowed")]
    | Annotated[NamedFunction, Tag(f"{BRANCH}named")],
    Discriminator(kind_of_choice),
    BeforeValidator(partial(usual, nested=False)),
]


class AnyText(OpenaiRequest):
    """Any text."""

    type: Literal["text"]


class AnyObject(OpenaiRequest):
    """A JSON object."""

    type: Literal["json_object"]


class OfSchema(OpenaiRequest):
    """JSON that conforms to a schema; name, description and strict change nothing: the answer always conforms."""

    type: Literal["json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


TextFormat = Annotated[AnyText | AnyObject | OfSchema, Discriminator("type")]


class TextOptions(OpenaiRequest):
    """The form of the answer."""

    passed_over = TEXT

    format: TextFormat | None = None


class ReasoningOptions(OpenaiRequest):
    """effort: whether the model may reason before it answers; summaries of that are not made."""

    passed_over = REASONING

    effort: Literal["none", "minimal", "default", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description='"none", "minimal" or "default" for an answer at once, any other level for reasoning'
    )


class InputItemsQuery(OpenaiRequest):
    """Which items of a stored response's input to list. after: an item's id."""

    passed_over = QUERY

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = Field(20, description=f"an integer from 1 to {MAX_PAGE}")
    order: Literal["asc", "desc"] = Field("desc", description='"asc" or "desc"')
    after: str | None = None

    @classmethod
    def values(cls, query: Mapping[str, str]) -> dict[str, Any]:
        """Return the values in a query, whose numbers are texts."""
        return {name: int(text) if WHOLE.fullmatch(text) else text for name, text in query.items()}


class ResponseRequest(OpenaiRequest):
    """What to answer. Absent sampling fields take the checkpoint's values, except `temperature`."""

    union_tags = OpenaiRequest.union_tags | frozenset({"function", "namespace"})
    passed_over = REQUEST
    as_absent = {"max_output_tokens": -1, "seed": -1, "stop": ""}

    model: Annotated[str, Field(max_length=256, description="the id of a model, see /v1/models")]
    input: Input
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(max_length=256)] | None = Field(
        None, description="the id of a response that was stored"
    )
    store: bool | None = Field(None, description="true to keep the response for an hour, else false")
    stream: bool | None = Field(None, description="true or false")
    max_output_tokens: Length | None = Field(None, description=LENGTH)
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="a number from 0 to 2")
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="a number from 0 to 1")
    text: TextOptions | None = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="true or false")
    reasoning: ReasoningOptions | None = None
    include: Annotated[list[Included], Field(max_length=32, fail_fast=True)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="an integer from 0 to 20")
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=MAX_METADATA),
            BeforeValidator(few(MAX_METADATA)),
        ]
        | None
    ) = Field(None, description=f"an object of at most {MAX_METADATA} texts of 512 characters, named in 64")
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description='"disabled", or "auto" to drop the oldest messages of an input that does not fit'
    )
    # Fields that other servers have too.
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = Field(
        None, description="an integer from 1 to 1000000, or 0 or -1 for no limit"
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="a number from 0 to 1")
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="a number from -2 to 2")
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = Field(None, description="a number from -2 to 2")
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10)] | None = Field(
        None, description="a number from 0.01 to 10"
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(None, description="an integer of 64 bits")
    stop: OneOrMoreStops | None = None
