"""The messages of a chat, given to the builder that every protocol shares."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import ValidationError
from engine.types import ModelInfo
from routes.chat.conversation import Content, ConversationBuilder, ImageSource, Part, PastCall
from routes.openai.messages import (
    AssistantMessage,
    ImagePart,
    Message,
    RefusalPart,
    TextPart,
    ToolMessage,
    UserMessage,
)


def conversation(messages: Sequence[Message], info: ModelInfo) -> ConversationBuilder:
    """Return the conversation. Raises ServiceError with the path of the part for images that cannot be read."""
    builder = ConversationBuilder(info)
    for index, message in enumerate(messages):
        _add(message, f"messages[{index}]", builder)
    return builder


def _add(message: Message, path: str, builder: ConversationBuilder) -> None:
    if isinstance(message, AssistantMessage):
        _add_answer(message, path, builder)
        return
    content = _content(message.content, f"{path}.content")
    if isinstance(message, ToolMessage):
        builder.tool_result(message.tool_call_id, content)
    elif isinstance(message, UserMessage):
        builder.user(content)
    else:  # templates know `system` and drop `developer`, its later name
        builder.system(content)


def _add_answer(message: AssistantMessage, path: str, builder: ConversationBuilder) -> None:
    if message.content is None and not message.tool_calls and message.refusal is None:
        raise ValidationError(f"{path}.content is required.", f"{path}.content")
    said = message.content if message.content is not None else message.refusal or ""
    calls = [PastCall(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    builder.assistant(_content(said, f"{path}.content"), calls)


def _content(content: str | Sequence[TextPart | RefusalPart | ImagePart], path: str) -> Content:
    if isinstance(content, str):
        return content
    return [_part(part, f"{path}[{index}]") for index, part in enumerate(content)]


def _part(part: TextPart | RefusalPart | ImagePart, path: str) -> Part:
    if isinstance(part, ImagePart):
        return ImageSource(f"{path}.image_url.url", url=part.image_url.url)
    return part.text if isinstance(part, TextPart) else part.refusal
