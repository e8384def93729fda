"""The messages of a chat: what each role may say, and the conversation they make for a model's template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from engine.errors import ContextTooLong, ServiceError, Unsupported, ValidationError
from engine.text.images import check_header
from engine.types import EncodedImage, ModelInfo
from routes.openai.base import OpenaiRequest
from routes.parsing import picture_in_data_url
from routes.validation import BRANCH

MAX_MESSAGES = 1024
MAX_PICTURES = 4
# No token of the vocabularies that we serve is longer, so that a text too long for certain is never tokenized.
LONGEST_TOKEN = 128  # characters

TEXT, PARTS = f"{BRANCH}text", f"{BRANCH}parts"


def _text_or_parts(value: Any) -> str:
    return PARTS if isinstance(value, list) else TEXT


class TextPart(OpenaiRequest):
    """A text."""

    type: Literal["text"]
    text: str


class ImageUrl(OpenaiRequest):
    """A picture in a data URL; pictures are always read in full detail, and nothing is fetched from elsewhere."""

    url: Annotated[str, Field(description="A base64 data URL: data:image/png;base64,...")]
    detail: Literal["auto", "high"] | None = None


class ImagePart(OpenaiRequest):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class RefusalPart(OpenaiRequest):
    """What an assistant refused to say, as its own turn gave it."""

    type: Literal["refusal"]
    refusal: str


class CalledFunction(OpenaiRequest):
    """The function of a call, its arguments a JSON text."""

    name: str
    arguments: str


class ToolCall(OpenaiRequest):
    """A call that the assistant made in an earlier turn."""

    id: str
    type: Literal["function"] | None = None
    function: CalledFunction


TextParts = Annotated[list[TextPart], Field(min_length=1)]
UserPart = Annotated[TextPart | ImagePart, Discriminator("type")]
AssistantPart = Annotated[TextPart | RefusalPart, Discriminator("type")]
TextContent = Annotated[Annotated[str, Tag(TEXT)] | Annotated[TextParts, Tag(PARTS)], Discriminator(_text_or_parts)]
UserContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[UserPart], Field(min_length=1), Tag(PARTS)],
    Discriminator(_text_or_parts),
]
AssistantContent = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[AssistantPart], Field(min_length=1), Tag(PARTS)],
    Discriminator(_text_or_parts),
]


class SystemMessage(OpenaiRequest):
    """Instructions; `name` is accepted and changes nothing, here and in the other roles."""

    role: Literal["system", "developer"]
    content: TextContent
    name: str | None = None


class UserMessage(OpenaiRequest):
    """What the user says; pictures for a model that reads them."""

    role: Literal["user"]
    content: UserContent
    name: str | None = None


class AssistantMessage(OpenaiRequest):
    """An earlier answer, given back as it came."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None
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
    """The messages as a template takes them, and the pictures in their order.

    Raises ValidationError and its kin, with the message to blame, for pictures that cannot be read and for texts that
    no context could hold.
    """

    def __init__(self, messages: Sequence[Message], info: ModelInfo) -> None:
        self.images: list[EncodedImage] = []
        self._info = info
        self._characters = 0
        self.messages = tuple(self._plain(message, f"messages[{place}]") for place, message in enumerate(messages))
        if self._characters > LONGEST_TOKEN * info.max_model_len:
            raise ContextTooLong(
                f"The messages are too long for this model's context of {info.max_model_len} tokens.", "messages"
            )

    def _plain(self, message: Message, where: str) -> dict[str, Any]:
        if isinstance(message, AssistantMessage):
            return self._assistant(message, where)
        content = self._content(message.content, f"{where}.content")
        if isinstance(message, ToolMessage):
            return {"role": "tool", "content": content, "tool_call_id": message.tool_call_id}
        # Templates know `system`; OpenAI's later name for it would be dropped by them.
        return {"role": "user" if isinstance(message, UserMessage) else "system", "content": content}

    def _assistant(self, message: AssistantMessage, where: str) -> dict[str, Any]:
        if message.content is None and not message.tool_calls and message.refusal is None:
            raise ValidationError(f"{where}.content is required.", f"{where}.content")
        said = message.content if message.content is not None else message.refusal or ""
        turn: dict[str, Any] = {"role": "assistant", "content": self._content(said, f"{where}.content")}
        if message.tool_calls:
            turn["tool_calls"] = [_called(call) for call in message.tool_calls]
            self._characters += sum(len(call.function.arguments) for call in message.tool_calls)
        return turn

    def _content(self, content: str | Sequence[Any], where: str) -> str | list[dict[str, str]]:
        if isinstance(content, str):
            self._characters += len(content)
            return content
        return [self._part(part, f"{where}[{place}]") for place, part in enumerate(content)]

    def _part(self, part: TextPart | RefusalPart | ImagePart, where: str) -> dict[str, str]:
        if isinstance(part, ImagePart):
            self._take_picture(part.image_url.url, f"{where}.image_url.url")
            return {"type": "image"}
        text = part.text if isinstance(part, TextPart) else part.refusal
        self._characters += len(text)
        return {"type": "text", "text": text}

    def _take_picture(self, url: str, where: str) -> None:
        if not self._info.vision:
            raise Unsupported("This model does not read images.", where)
        if len(self.images) == MAX_PICTURES:
            raise ValidationError(f"A request may carry at most {MAX_PICTURES} images.", where)
        if url[:4].lower() == "http":
            raise Unsupported("Images are not fetched from other addresses; send a base64 data URL.", where)
        try:
            self.images.append(check_header(picture_in_data_url(url)))
        except ServiceError as error:
            if isinstance(error, ValidationError):
                error.param = where
            raise
