"""The input of a response, given to the builder that every protocol shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.errors import ValidationError
from engine.types import ModelInfo
from routes.chat.conversation import UNREAD_DOCUMENT, Content, ConversationBuilder, ImageSource, Part, PastCall
from routes.chat.history import question_start
from routes.openai.messages import AnsweredPart, FilePart, ImagePart, RefusalPart, TextPart, ThoughtPart
from routes.openai.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    InputMessage,
    PastAnswer,
    PastReasoning,
)
from routes.openai.responses.namespaces import full_name

ShownPart = TextPart | AnsweredPart | RefusalPart | ImagePart | FilePart
AnyPart = ShownPart | ThoughtPart

ANSWERS = PastAnswer, FunctionCall, PastReasoning
INPUT, PREVIOUS = "input", "previous_response_id"


def conversation(
    instructions: str | None, previous: Sequence[InputItem], asked: str | Sequence[InputItem], info: ModelInfo
) -> ConversationBuilder:
    """Return the conversation: instructions, the items of the stored responses before it, and the request's own.

    Raises ValidationError for one without any item, and ServiceError with the path of an image that cannot be read.
    """
    builder = ConversationBuilder(info)
    if instructions is not None:
        builder.system(instructions)
    items = [(item, PREVIOUS, True) for item in previous]
    if isinstance(asked, str):
        _add_items(items, builder)
        builder.user(asked)
    else:
        answers = [isinstance(item, ANSWERS) for item in asked]
        start = question_start(answers, [isinstance(item, FunctionCallOutput) for item in asked])
        own = ((item, f"{INPUT}[{index}]", index < start) for index, item in enumerate(asked))
        _add_items([*items, *own], builder)
    if len(builder.messages) == (instructions is not None):
        raise ValidationError(f"{INPUT} must have a message.", INPUT)
    return builder


def _add_items(items: Iterable[tuple[InputItem, str, bool]], builder: ConversationBuilder) -> None:
    """Add items, each with its path and whether it is of an earlier turn.

    An answer is one message, of its text and the calls that follow it.
    """
    answer = _Answer(builder)
    for item, path, earlier in items:
        match item:
            case FunctionCall():
                answer.calls.append(
                    PastCall(item.call_id, full_name(item.namespace, item.name), item.arguments.strip() or "{}")
                )
            case PastAnswer():
                answer.close()
                answer.said = _content(item.content, f"{path}.content")
            case InputMessage() | FunctionCallOutput():
                answer.close()
                _add(item, path, builder, earlier)
            case PastReasoning():
                pass
    answer.close()


class _Answer:
    """An earlier answer, as far as its items have been read."""

    def __init__(self, builder: ConversationBuilder) -> None:
        self._builder = builder
        self.said: Content | None = None
        self.calls: list[PastCall] = []

    def close(self) -> None:
        """Add it to the conversation, if there is any."""
        if self.said is not None or self.calls:
            self._builder.assistant(self.said or "", self.calls)
        self.said, self.calls = None, []


def _add(item: InputMessage | FunctionCallOutput, path: str, builder: ConversationBuilder, earlier: bool) -> None:
    if isinstance(item, FunctionCallOutput):
        builder.tool_result(item.call_id, _content(item.output, f"{path}.output"))
    elif item.role == "user":
        builder.user(_content(item.content, f"{path}.content"), earlier)
    else:  # templates know `system` and drop `developer`, its later name
        builder.system(_content(item.content, f"{path}.content"), earlier)


def _content(content: str | Sequence[AnyPart], path: str) -> Content:
    if isinstance(content, str):
        return content
    parts = ((part, f"{path}[{index}]") for index, part in enumerate(content))
    return [_part(part, where) for part, where in parts if not isinstance(part, ThoughtPart)] or ""


def _part(part: ShownPart, path: str) -> Part:
    if isinstance(part, FilePart):
        return UNREAD_DOCUMENT
    if isinstance(part, RefusalPart):
        return part.refusal
    if not isinstance(part, ImagePart):
        return part.text
    url, field = (part.image_url, "") if isinstance(part.image_url, str) else (part.image_url.url, ".url")
    # Where it was sent before, the request has no field of its own for it.
    return ImageSource(PREVIOUS if path.startswith(PREVIOUS) else f"{path}.image_url{field}", url=url)
