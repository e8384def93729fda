"""Which parts of earlier turns and of results OpenAI's protocols read."""

from __future__ import annotations

from routes.chat.history import History, Parts, Value

TEXTS = frozenset({"text", "input_text", "output_text"})


def _image(part: Value) -> Value | None:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return part if isinstance(url, str) else None  # by the id of a file, none is


IMAGES = {"image_url": _image, "input_image": _image}
EARLIER = Parts(TEXTS, IMAGES)
ANSWER = Parts(TEXTS | {"refusal", "thinking", "reasoning", "redacted_thinking"}, {})
RESULT = Parts(TEXTS | {"file", "input_file"}, IMAGES)  # its files are notes once the conversation is built


def _is_tool_message(message: Value) -> bool:
    return message.get("role") in ("tool", "function")


def _tool_message(message: Value) -> Value:
    if not _is_tool_message(message):
        return message
    return {**message, "content": RESULT.readable(message.get("content"))}


def _is_call_output(item: Value) -> bool:
    return item.get("type") == "function_call_output"


def _call_output(item: Value) -> Value:
    if not _is_call_output(item):
        return item
    return {**item, "output": RESULT.readable(item.get("output"))}


CHAT = History(lambda message: message.get("role") == "assistant", _is_tool_message, _tool_message, EARLIER, ANSWER)
RESPONSES = History(
    lambda item: item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning"),
    _is_call_output,
    _call_output,
    EARLIER,
    ANSWER,
)
