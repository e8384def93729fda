"""The messages of a chat, given to the builder that every protocol shares."""

from __future__ import annotations

from collections.abc import Sequence

from engine.types import ModelInfo
from routes.chat.conversation import (
    UNREAD_DOCUMENT,
    Content,
    ConversationBuilder,
    ImageSource,
    Part,
    PastCall,
    arguments_text,
)
from routes.chat.history import question_start
from routes.openai.messages import (
    AnsweredPart,
    AssistantMessage,
    FilePart,
    ImagePart,
    Message,
    PastFunction,
    RefusalPart,
    TextPart,
    ThoughtPart,
    ToolMessage,
    UserMessage,
)

ShownPart = TextPart | ImagePart | FilePart | AnsweredPart | RefusalPart


def conversation(messages: Sequence[Message], info: ModelInfo) -> ConversationBuilder:
    """Return the conversation. Raises ServiceError with the path of the part for images that cannot be read."""
    builder = ConversationBuilder(info)
    answers = [isinstance(message, AssistantMessage) for message in messages]
    start = question_start(answers, [isinstance(message, ToolMessage) for message in messages])
    for index, message in enumerate(messages):
        _add(message, f"messages[{index}]", builder, index < start)
    return builder


def _add(message: Message, path: str, builder: ConversationBuilder, earlier: bool) -> None:
    if isinstance(message, AssistantMessage):
        _add_answer(message, path, builder)
        return
    content = _content(message.content or "", f"{path}.content")
    if isinstance(message, ToolMessage):
        builder.tool_result(message.tool_call_id, content)
    elif isinstance(message, UserMessage):
        builder.user(content, earlier)
    else:  # templates know `system` and drop `developer`, its later name
        builder.system(content, earlier)


def _add_answer(message: AssistantMessage, path: str, builder: ConversationBuilder) -> None:
    calls = [_past(call.id, call.function) for call in message.tool_calls or ()]
    if message.function_call is not None:
        calls.append(_past(message.function_call.name, message.function_call))
    builder.assistant(_content(message.content or message.refusal or "", f"{path}.content"), calls)


def _past(call_id: str | None, function: PastFunction) -> PastCall:
    return PastCall(call_id or "", function.name, arguments_text(function.arguments))


def _content(content: str | Sequence[ShownPart | ThoughtPart], path: str) -> Content:
    if isinstance(content, str):
        return content
    shown = [(index, part) for index, part in enumerate(content) if not isinstance(part, ThoughtPart)]
    return [_part(part, f"{path}[{index}]") for index, part in shown] or ""


def _part(part: ShownPart, path: str) -> Part:
    if isinstance(part, FilePart):
        return UNREAD_DOCUMENT
    if isinstance(part, ImagePart):
        image = part.image_url
        url, place = (image, "image_url") if isinstance(image, str) else (image.url, "image_url.url")
        return ImageSource(f"{path}.{place}", url=url)
    return part.refusal if isinstance(part, RefusalPart) else part.text
