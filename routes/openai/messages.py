"""The messages of a chat: the fields of each role, and the conversation as a chat template takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from engine.errors import ServiceError, Unsupported, ValidationError
from engine.text.images import check_header
from engine.types import EncodedImage, ModelInfo
from routes.openai.base import OpenaiRequest
from routes.parsing import image_in_data_url
from routes.validation import BRANCH

MAX_MESSAGES = 1024
MAX_IMAGES = 4

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


def _called(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": call.function.model_dump()}


class Conversation:
    """The messages as a chat template takes them, and their images in order.

    Raises ServiceError with the path of the part for images that cannot be read.
    """

    def __init__(self, messages: Sequence[Message], info: ModelInfo) -> None:
        self.images: list[EncodedImage] = []
        self._info = info
        self.messages = tuple(self._plain(message, f"messages[{index}]") for index, message in enumerate(messages))

    def _plain(self, message: Message, path: str) -> dict[str, Any]:
        if isinstance(message, AssistantMessage):
            return self._assistant(message, path)
        content = self._content(message.content, f"{path}.content")
        if isinstance(message, ToolMessage):
            return {"role": "tool", "content": content, "tool_call_id": message.tool_call_id}
        # Templates know `system` and drop `developer`, its later name.
        return {"role": "user" if isinstance(message, UserMessage) else "system", "content": content}

    def _assistant(self, message: AssistantMessage, path: str) -> dict[str, Any]:
        if message.content is None and not message.tool_calls and message.refusal is None:
            raise ValidationError(f"{path}.content is required.", f"{path}.content")
        said = message.content if message.content is not None else message.refusal or ""
        answer: dict[str, Any] = {"role": "assistant", "content": self._content(said, f"{path}.content")}
        if message.tool_calls:
            answer["tool_calls"] = [_called(call) for call in message.tool_calls]
        return answer

    def _content(self, content: str | Sequence[Any], path: str) -> str | list[dict[str, str]]:
        if isinstance(content, str):
            return content
        return [self._part(part, f"{path}[{index}]") for index, part in enumerate(content)]

    def _part(self, part: TextPart | RefusalPart | ImagePart, path: str) -> dict[str, str]:
        if isinstance(part, ImagePart):
            self._add_image(part.image_url.url, f"{path}.image_url.url")
            return {"type": "image"}
        text = part.text if isinstance(part, TextPart) else part.refusal
        return {"type": "text", "text": text}

    def _add_image(self, url: str, path: str) -> None:
        if not self._info.vision:
            raise Unsupported("This model does not read images.", path)
        if len(self.images) == MAX_IMAGES:
            raise ValidationError(f"A request may carry at most {MAX_IMAGES} images.", path)
        if url[:4].lower() == "http":
            raise Unsupported("Images are not fetched from other addresses; send a base64 data URL.", path)
        try:
            self.images.append(check_header(image_in_data_url(url)))
        except ServiceError as error:
            if isinstance(error, ValidationError):
                error.param = path
            raise
