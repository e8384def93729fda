"""The messages of a request, given to the builder that every protocol shares.

Consecutive messages of one role are one message, as with Anthropic. Reasoning in earlier answers is passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from engine.errors import Unsupported, ValidationError
from engine.types import ModelInfo
from routes.anthropic.blocks import (
    AssistantTurn,
    Base64Source,
    BlocksSource,
    DocumentBlock,
    FileSource,
    ImageBlock,
    PlainTextSource,
    SearchResultBlock,
    SystemTurn,
    TextBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
    Turn,
    UrlSource,
)
from routes.chat.conversation import (
    Content,
    ConversationBuilder,
    ImageSource,
    Part,
    PastCall,
    arguments_text,
)
from routes.chat.history import question_start

BILLING = "x-anthropic-billing-header:"  # the beginning of a block of Claude Code's, which no model is to read
ERROR = "Error:"  # before the result of a call that failed, for templates know no such results

# A block and where it stands in the request.
Placed = tuple[Any, str]


def conversation(system: str | list[TextBlock] | None, turns: Sequence[Turn], info: ModelInfo) -> ConversationBuilder:
    """Return the conversation. Raises ServiceError with the path of what cannot be read."""
    builder = ConversationBuilder(info)
    instructions = _instructions(system)
    first = [SystemTurn(role="system", content=instructions)] if instructions else []
    numbered = enumerate([*first, *turns], start=-len(first))
    start = question_start([isinstance(turn, AssistantTurn) for turn in turns], list(map(_has_results, turns)))
    for kind, run in groupby(numbered, key=lambda turn: type(turn[1])):
        group = list(run)
        blocks = [placed for index, turn in group for placed in _placed(turn.content, f"messages[{index}].content")]
        if kind is SystemTurn:
            builder.system("\n".join(block.text for block, _ in blocks))
        elif kind is AssistantTurn:
            _add_answer(builder, blocks)
        else:
            _add_question(builder, blocks, earlier=group[-1][0] < start)
    return builder


def loaded_tools(turns: Sequence[Turn]) -> set[str]:
    """Return the names of the tools that a search of the client has found, or that the model has called."""
    blocks = [block for turn in turns if not isinstance(turn.content, str) for block in turn.content]
    results = [block.content for block in blocks if isinstance(block, ToolResultBlock)]
    found = [block for result in results if isinstance(result, list) for block in result]
    names = {block.tool_name for block in found if isinstance(block, ToolReferenceBlock)}
    return names | {block.name for block in blocks if isinstance(block, ToolUseBlock)}


def _instructions(system: str | list[TextBlock] | None) -> str | list[TextBlock] | None:
    """Return the instructions without what a client counts its sessions by: nothing in front of them would be equal."""
    if not isinstance(system, list):
        return system
    return [block for block in system if not block.text.startswith(BILLING)]


def continues(turns: Sequence[Turn]) -> bool:
    """Return whether the answer has begun: the last message is the assistant's. Raises ValidationError for a call."""
    last = turns[-1]
    if not isinstance(last, AssistantTurn):
        return False
    if not isinstance(last.content, str) and any(isinstance(block, ToolUseBlock) for block in last.content):
        path = f"messages[{len(turns) - 1}].content"
        raise ValidationError(f"{path} has a tool_use without a tool_result in the next message.", path)
    return True


def _has_results(turn: Turn) -> bool:
    return not isinstance(turn.content, str) and any(isinstance(block, ToolResultBlock) for block in turn.content)


def _placed(content: Any, path: str) -> Iterator[Placed]:
    if isinstance(content, str):
        yield TextBlock(type="text", text=content), path
        return
    for index, block in enumerate(content):
        yield block, f"{path}[{index}]"


def _add_answer(builder: ConversationBuilder, blocks: Sequence[Placed]) -> None:
    said = [block.text for block, _ in blocks if isinstance(block, TextBlock)]
    calls = [
        PastCall(block.id or "", block.name, arguments_text(block.input))
        for block, _ in blocks
        if isinstance(block, ToolUseBlock)
    ]
    builder.assistant("\n".join(said), calls)


def _add_question(builder: ConversationBuilder, blocks: Sequence[Placed], earlier: bool) -> None:
    """Add the results of calls, and behind them what the user says."""
    said: list[Placed] = []
    for block, path in blocks:
        if not isinstance(block, ToolResultBlock):
            said.append((block, path))
            continue
        found = _parts(_placed(block.content or "", f"{path}.content"))
        builder.tool_result(block.tool_use_id or "", _content([ERROR, *found] if block.is_error else found))
    if said:
        builder.user(_content(_parts(said)), earlier)


def _content(parts: Iterable[Part]) -> Content:
    """Return parts as a message takes them: a text alone as a string, and texts that follow each other as one.

    Templates do not separate them alike.
    """
    joined: list[Part] = []
    for text, run in groupby(parts, key=lambda part: isinstance(part, str)):
        found = list(run)
        joined += ["\n".join(map(str, found))] if text else found
    return joined[0] if len(joined) == 1 and isinstance(joined[0], str) else joined


def _parts(blocks: Iterator[Placed] | Sequence[Placed]) -> Iterator[Part]:
    """Yield the parts of a message, or of a result."""
    for block, path in blocks:
        match block:
            case TextBlock():
                yield block.text
            case ToolReferenceBlock():
                yield f"The tool {block.tool_name} is there now."
            case ImageBlock():
                yield _image(block.source, f"{path}.source")
            case SearchResultBlock():
                yield "\n".join([block.title, block.source, *(text.text for text in block.content)])
            case DocumentBlock():
                yield from _document(block, f"{path}.source")


def _image(source: Base64Source | UrlSource | FileSource, path: str) -> ImageSource:
    match source:
        case Base64Source():
            return ImageSource(f"{path}.data", base64=source.data)
        case UrlSource():
            raise Unsupported("Images are not fetched from other addresses; send them as base64.", f"{path}.url")
    raise Unsupported("This service keeps no files; send images as base64.", f"{path}.file_id")


def _document(block: DocumentBlock, path: str) -> Iterator[Part]:
    yield from (text for text in (block.title, block.context) if text)
    match block.source:
        case PlainTextSource():
            yield block.source.data
        case BlocksSource():
            yield from _parts(_placed(block.source.content, f"{path}.content"))
        case _:
            raise Unsupported("Of documents, only those of plain text are read here.", path)
