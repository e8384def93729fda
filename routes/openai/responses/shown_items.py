"""The items of an input as they are stored and listed: what the model reads of them, each with an id of its own.

What is passed over in a request is not stored either, so that a stored conversation is bounded by the model's context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from routes.openai.messages import FilePart, ImagePart, RefusalPart, ThoughtPart
from routes.openai.responses.conversation import AnyPart, ShownPart
from routes.openai.responses.items import (
    FunctionCall,
    FunctionCallOutput,
    InputItem,
    InputMessage,
    PastAnswer,
    PastReasoning,
)
from routes.openai.responses.open_items import new_id


def shown_items(asked: str | Sequence[InputItem]) -> list[dict[str, Any]]:
    """Return the items; a text is one message."""
    if isinstance(asked, str):
        return [_message("user", asked, "input_text")]
    return [_shown(item) for item in asked if not isinstance(item, PastReasoning)]


def _shown(item: InputMessage | PastAnswer | FunctionCall | FunctionCallOutput) -> dict[str, Any]:
    match item:
        case FunctionCall():
            return {"id": new_id("fc"), "status": "completed", **item.model_dump(exclude_none=True)}
        case FunctionCallOutput():
            output = item.output if isinstance(item.output, str) else _parts(item.output, "input_text")
            return {"id": new_id("fco"), "status": "completed", **item.model_dump(exclude={"output"}), "output": output}
        case PastAnswer():
            return _message(item.role, item.content, "output_text")
    return _message(item.role, item.content, "input_text")


def _message(role: str, content: str | Sequence[AnyPart], kind: str) -> dict[str, Any]:
    parts = [_text(content, kind)] if isinstance(content, str) else _parts(content, kind)
    return {"id": new_id("msg"), "type": "message", "status": "completed", "role": role, "content": parts}


def _parts(content: Sequence[AnyPart], kind: str) -> list[dict[str, Any]]:
    return [_part(part, kind) for part in content if not isinstance(part, ThoughtPart)]


def _part(part: ShownPart, kind: str) -> dict[str, Any]:
    match part:
        case ImagePart():
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            return {"type": "input_image", "image_url": url, "detail": "auto"}
        case FilePart():
            return {"type": "input_file"}
        case RefusalPart():
            return {"type": "refusal", "refusal": part.refusal}
    return _text(part.text, kind)


def _text(text: str, kind: str) -> dict[str, Any]:
    """Return a part of a text; only those of answers have annotations."""
    return {"type": kind, "text": text} | ({"annotations": []} if kind == "output_text" else {})
