"""The messages of a chat: the fields of each role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from routes.noted_parts import Noted
from routes.openai.base import HistoryPart
from routes.openai.history import ANSWER, EARLIER, RESULT
from routes.validation import BRANCH

MAX_MESSAGES = 1024

TEXT, PARTS, OBJECT = f"{BRANCH}text", f"{BRANCH}parts", f"{BRANCH}object"


Unread = Annotated[Any, BeforeValidator(lambda _: None)]


def _text_or_parts(value: Any) -> str:
    return PARTS if isinstance(value, list) else TEXT


def _object_or_text(value: Any) -> str:
    return TEXT if isinstance(value, str) else OBJECT


class TextPart(HistoryPart):
    """A text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ImageUrl(HistoryPart):
    """An image as a data URL; images are always read in full detail and never fetched from other addresses."""

    url: Annotated[str, Field(description="A base64 data URL: data:image/png;base64,...")]


class ImagePart(HistoryPart):
    """An image."""

    type: Literal["image_url", "input_image"]
    image_url: Annotated[Annotated[ImageUrl, Tag(OBJECT)] | Annotated[str, Tag(TEXT)], Discriminator(_object_or_text)]


class FilePart(HistoryPart):
    """A document in the result of a call, which is neither read nor kept."""

    type: Literal["file", "input_file"]
    file: Unread = None
    file_data: Unread = None
    file_id: Unread = None
    file_url: Unread = None
    filename: Unread = None
    detail: Unread = None


class AnsweredPart(HistoryPart):
    """A text of an earlier answer."""

    type: Literal["text", "output_text", "input_text"]
    text: str


class RefusalPart(HistoryPart):
    """A refusal in an earlier answer."""

    type: Literal["refusal"]
    refusal: str


class ThoughtPart(HistoryPart):
    """Reasoning in an earlier answer, which the model is not shown again."""

    type: Literal["thinking", "reasoning", "redacted_thinking"]


class PastFunction(HistoryPart):
    """The function of a call; arguments: a JSON text, or the object itself."""

    name: str
    arguments: (
        Annotated[Annotated[str, Tag(TEXT)] | Annotated[dict[str, Any], Tag(OBJECT)], Discriminator(_object_or_text)]
        | None
    ) = None


class PastToolCall(HistoryPart):
    """A call in an earlier answer."""

    id: str | None = None
    type: Literal["function"] | None = None
    function: PastFunction


TextParts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]
UserPart = Annotated[TextPart | ImagePart, Discriminator("type")]
ResultPart = Annotated[TextPart | ImagePart | FilePart, Discriminator("type")]
AssistantPart = Annotated[AnsweredPart | RefusalPart | ThoughtPart, Discriminator("type")]
TextContent = Annotated[Annotated[str, Tag(TEXT)] | Annotated[TextParts, Tag(PARTS)], Discriminator(_text_or_parts)]
UserContent = Annotated[
    Annotated[str, Tag(TEXT)]
    | Annotated[list[UserPart], Field(min_length=1, fail_fast=True), Noted(EARLIER), Tag(PARTS)],
    Discriminator(_text_or_parts),
]
AssistantContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[AssistantPart], Field(fail_fast=True), Noted(ANSWER), Tag(PARTS)],
    Discriminator(_text_or_parts),
]
ResultContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[ResultPart], Field(fail_fast=True), Noted(RESULT), Tag(PARTS)],
    Discriminator(_text_or_parts),
]


class SystemMessage(HistoryPart):
    """Instructions."""

    role: Literal["system", "developer"]
    content: TextContent


class UserMessage(HistoryPart):
    """A message of the user; images only for a model that reads them."""

    role: Literal["user"]
    content: UserContent


class AssistantMessage(HistoryPart):
    """An earlier answer; function_call: a call as it was sent before there were tools."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[PastToolCall], Field(fail_fast=True)] | None = None
    function_call: PastFunction | None = None


class ToolMessage(HistoryPart):
    """The result of a call. tool_call_id: absent where a client names calls by their function alone."""

    role: Literal["tool"]
    content: ResultContent | None = None
    tool_call_id: str = ""


def _as_tool(message: Any) -> Any:
    """Return the result of a call as it is sent since there are tools; before, it had the function's name."""
    if isinstance(message, dict) and message.get("role") == "function":
        return message | {"role": "tool", "tool_call_id": message.get("name") or ""}
    return message


Message = Annotated[
    Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Discriminator("role")],
    BeforeValidator(_as_tool),
]
