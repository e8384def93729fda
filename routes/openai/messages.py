"""The messages of a chat: the fields of each role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from routes.openai.base import OpenaiRequest
from routes.validation import BRANCH

MAX_MESSAGES = 1024

TEXT, PARTS = f"{BRANCH}text", f"{BRANCH}parts"


def _text_or_parts(value: Any) -> str:
    return PARTS if isinstance(value, list) else TEXT


class TextPart(OpenaiRequest):
    """A text."""

    type: Literal["text"]
    text: str


class ImageUrl(OpenaiRequest):
    """An image as a data URL; images are always read in full detail and never fetched from other addresses."""

    url: Annotated[str, Field(description="A base64 data URL: data:image/png;base64,...")]
    detail: Literal["auto", "high"] | None = None


class ImagePart(OpenaiRequest):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class RefusalPart(OpenaiRequest):
    """A refusal in an earlier answer."""

    type: Literal["refusal"]
    refusal: str


class CalledFunction(OpenaiRequest):
    """The function of a call; arguments: a JSON text."""

    name: str
    arguments: str


class ToolCall(OpenaiRequest):
    """A call in an earlier answer."""

    id: str
    type: Literal["function"] | None = None
    function: CalledFunction


TextParts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
UserPart = Annotated[TextPart | ImagePart, Discriminator("type")]
AssistantPart = Annotated[TextPart | RefusalPart, Discriminator("type")]
TextContent = Annotated[Annotated[str, Tag(TEXT)] | Annotated[TextParts, Tag(PARTS)], Discriminator(_text_or_parts)]
UserContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[UserPart], Field(min_length=1, fail_fast=True), Tag(PARTS)],
    Discriminator(_text_or_parts),
]
AssistantContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[AssistantPart], Field(min_length=1, fail_fast=True), Tag(PARTS)],
    Discriminator(_text_or_parts),
]


class SystemMessage(OpenaiRequest):
    """Instructions; `name` is accepted and ignored, in every role."""

    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = None


class UserMessage(OpenaiRequest):
    """A message of the user; images only for a model that reads them."""

    role: Literal["user"]
    content: UserContent
    name: str | None = None


class AssistantMessage(OpenaiRequest):
    """An earlier answer."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True)] | None = None
    annotations: list[Any] | None = None
    name: str | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(OpenaiRequest):
    """The result of a call."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Discriminator("role")]
