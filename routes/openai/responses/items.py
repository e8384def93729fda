"""The items of an input: messages, calls of functions, their results, and reasoning.

Clients send back what they were sent, as their library serializes it. So fields that an item does not have here (ids,
statuses, annotations, log probabilities, hints for caches) are history and passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from routes.noted_parts import Noted
from routes.openai.base import HistoryPart
from routes.openai.history import EARLIER, RESPONSES, RESULT
from routes.openai.messages import PARTS, TEXT, AssistantContent, FilePart, ImagePart, TextPart
from routes.sse import compact
from routes.validation import BRANCH, conversation_of

MAX_ITEMS = 2048
ITEM_TYPES = ("message", "function_call", "function_call_output", "reasoning")


def _text_or_parts(value: Any) -> str:
    return PARTS if isinstance(value, list) else TEXT


InputPart = Annotated[TextPart | ImagePart, Discriminator("type")]
ResultPart = Annotated[TextPart | ImagePart | FilePart, Discriminator("type")]
InputContent = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[InputPart], Field(min_length=1, fail_fast=True), Noted(EARLIER), Tag(PARTS)],
    Discriminator(_text_or_parts),
]


ResultContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[ResultPart], Field(fail_fast=True), Noted(RESULT), Tag(PARTS)],
    Discriminator(_text_or_parts),
]


def _as_text(arguments: Any) -> Any:
    return compact(arguments) if isinstance(arguments, dict) else arguments


class InputMessage(HistoryPart):
    """A message of the user or instructions; images only for a model that reads them."""

    type: Literal["message"] | None = None
    role: Literal["user", "system", "developer"]
    content: InputContent


class PastAnswer(HistoryPart):
    """A message of an earlier answer. content: absent where the answer was calls alone."""

    type: Literal["message"] | None = None
    role: Literal["assistant"]
    content: AssistantContent = ""


class FunctionCall(HistoryPart):
    """A call in an earlier answer. namespace: of the function, if it has one; arguments: a JSON text, or its object."""

    type: Literal["function_call"]
    call_id: str
    namespace: str | None = None
    name: str
    arguments: Annotated[str, BeforeValidator(_as_text)] = ""


class FunctionCallOutput(HistoryPart):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str
    output: ResultContent = ""


class PastReasoning(HistoryPart):
    """The reasoning of an earlier answer; passed over."""

    type: Literal["reasoning"]


def _kind(value: Any) -> str:
    """Tell items apart by type and role; the type of a message may be absent."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ITEM_TYPES[1:]:
        return f"{BRANCH}{kind}"
    answer = isinstance(value, dict) and value.get("role") == "assistant"
    return f"{BRANCH}answer" if answer else f"{BRANCH}message"


InputItem = Annotated[
    Annotated[InputMessage, Tag(f"{BRANCH}message")]
    | Annotated[PastAnswer, Tag(f"{BRANCH}answer")]
    | Annotated[FunctionCall, Tag(f"{BRANCH}function_call")]
    | Annotated[FunctionCallOutput, Tag(f"{BRANCH}function_call_output")]
    | Annotated[PastReasoning, Tag(f"{BRANCH}reasoning")],
    Discriminator(_kind),
]
Items = Annotated[
    list[InputItem],
    Field(max_length=MAX_ITEMS, fail_fast=True),
    BeforeValidator(RESPONSES.readable),
    BeforeValidator(conversation_of(MAX_ITEMS)),
]
Input = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[Items, Tag(PARTS)],
    Discriminator(_text_or_parts),
]


class StoredItems(HistoryPart):
    """The items of a conversation that was stored."""

    items: Items
