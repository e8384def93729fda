"""The bodies of the Responses API, as typed dictionaries: what is sent is what OpenAPI describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired

from edge.bodies import Body, Cost
from routes.response_models import ChosenTokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]


class OutputText(Body):
    """The text of a message. logprobs: empty unless they were asked for."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: Sequence[ChosenTokenLogprob]


class OutputMessage(Body):
    """What the model says."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningText(Body):
    """The text of a reasoning."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(Body):
    """What the model wrote before its answer, with reasoning switched on. summary: always empty."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningText]


class OutputCall(Body):
    """A call of a function. arguments: a JSON text; of an incomplete call, the beginning of one.

    namespace: of a function that was given in one.
    """

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    namespace: NotRequired[str]


OutputItem = OutputMessage | OutputReasoning | OutputCall


class InputTokensDetails(Body):
    """Tokens of the prompt whose keys and values came from the prefix cache."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Body):
    """Tokens of the answer that are reasoning."""

    reasoning_tokens: int


class ResponseUsage(Body):
    """Counts of tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int
    cost: NotRequired[Cost]


class IncompleteDetails(Body):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ResponseFailure(Body):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(Body):
    """A response. Streamed: its events, each with a type and a number, until one with the whole object.

    request_id: of the request that made it, as in the header; the id is none that others could guess.
    """

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: ResponseStatus
    background: Literal[False]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, str | None]
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    request_id: str


class DeletedResponse(Body):
    """A stored response was deleted."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokenCount(Body):
    """How many tokens an input has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class InputItemList(Body):
    """Items of the conversation that a stored response answers; data: as they were sent, with an id."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
