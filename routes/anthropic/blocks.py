"""The content blocks of messages, by their `type`. Blocks of tools that Anthropic runs are none of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from routes.anthropic.base import CitablePart, HistoryPart
from routes.anthropic.history import ANSWER, DOCUMENT, EARLIER, RESULT
from routes.noted_parts import Noted
from routes.validation import BRANCH

STRING, BLOCKS, OBJECT = f"{BRANCH}string", f"{BRANCH}blocks", f"{BRANCH}object"


def _string_or_blocks(value: Any) -> str:
    return BLOCKS if isinstance(value, list) else STRING


def _string_or_object(value: Any) -> str:
    return STRING if isinstance(value, str) else OBJECT


class TextBlock(HistoryPart):
    """A text."""

    type: Literal["text"]
    text: str


class Base64Source(HistoryPart):
    """The bytes of an image. media_type: passed over, an image is known by its content."""

    type: Literal["base64"]
    media_type: str | None = None
    data: Annotated[str, Field(description="iVBORw0KGgo...", json_schema_extra={"format": "image-base64"})]


class UrlSource(HistoryPart):
    """Something at another address, which is never fetched."""

    type: Literal["url"]
    url: str


class FileSource(HistoryPart):
    """An uploaded file; this service keeps none."""

    type: Literal["file"]
    file_id: str


ImageBlockSource = Annotated[Base64Source | UrlSource | FileSource, Discriminator("type")]


class ImageBlock(HistoryPart):
    """An image; only for a model that reads them."""

    type: Literal["image"]
    source: ImageBlockSource


class PlainTextSource(HistoryPart):
    """The text of a document."""

    type: Literal["text"]
    data: str


TextOrImage = Annotated[TextBlock | ImageBlock, Discriminator("type")]
TextsAndImages = Annotated[
    Annotated[str, Tag(STRING)] | Annotated[list[TextOrImage], Field(fail_fast=True), Noted(DOCUMENT), Tag(BLOCKS)],
    Discriminator(_string_or_blocks),
]


class BlocksSource(HistoryPart):
    """The texts and images of a document."""

    type: Literal["content"]
    content: TextsAndImages


class DocumentBlock(CitablePart):
    """A document of text, and of images for a model that reads them. PDFs are not read."""

    type: Literal["document"]
    source: Annotated[PlainTextSource | BlocksSource | Base64Source | UrlSource | FileSource, Discriminator("type")]
    title: str | None = None
    context: str | None = None


class SearchResultBlock(CitablePart):
    """What a search of the client has found."""

    type: Literal["search_result"]
    title: str
    source: str
    content: Annotated[list[TextBlock], Field(fail_fast=True)]


class ToolUseBlock(HistoryPart):
    """A call in an earlier answer. input: an object, or its JSON text, as far as it had come where it was cut."""

    type: Literal["tool_use"]
    id: str | None = None
    name: str
    input: (
        Annotated[
            Annotated[str, Tag(STRING)] | Annotated[dict[str, Any], Tag(OBJECT)], Discriminator(_string_or_object)
        ]
        | None
    ) = None


class ToolReferenceBlock(HistoryPart):
    """What a search for tools has found: one of the request's tools, until then deferred."""

    type: Literal["tool_reference"]
    tool_name: str


Readable = Annotated[
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock, Discriminator("type")
]
ResultContent = Annotated[
    Annotated[str, Tag(STRING)] | Annotated[list[Readable], Field(fail_fast=True), Noted(RESULT), Tag(BLOCKS)],
    Discriminator(_string_or_blocks),
]


class ToolResultBlock(HistoryPart):
    """The result of a call."""

    type: Literal["tool_result"]
    tool_use_id: str | None = None
    content: ResultContent | None = None
    is_error: bool | None = None


class ThinkingBlock(HistoryPart):
    """The reasoning of an earlier answer; passed over."""

    type: Literal["thinking"]


class RedactedThinkingBlock(HistoryPart):
    """The hidden reasoning of an earlier answer; passed over."""

    type: Literal["redacted_thinking"]


UserBlock = Annotated[
    TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolResultBlock, Discriminator("type")
]
AssistantBlock = Annotated[TextBlock | ToolUseBlock | ThinkingBlock | RedactedThinkingBlock, Discriminator("type")]
Texts = Annotated[
    Annotated[str, Tag(STRING)] | Annotated[list[TextBlock], Field(fail_fast=True), Tag(BLOCKS)],
    Discriminator(_string_or_blocks),
]


class UserTurn(HistoryPart):
    """A message of the user, or results of calls."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag(STRING)]
        | Annotated[list[UserBlock], Field(min_length=1, fail_fast=True), Noted(EARLIER), Tag(BLOCKS)],
        Discriminator(_string_or_blocks),
    ]


class AssistantTurn(HistoryPart):
    """An earlier answer; as the last message, the beginning of the answer."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag(STRING)]
        | Annotated[list[AssistantBlock], Field(fail_fast=True), Noted(ANSWER), Tag(BLOCKS)],
        Discriminator(_string_or_blocks),
    ]


class SystemTurn(HistoryPart):
    """Instructions in the course of the conversation."""

    role: Literal["system"]
    content: Texts


Turn = Annotated[UserTurn | AssistantTurn | SystemTurn, Discriminator("role")]
