"""Which parts of earlier turns and of results OpenAI's protocols read."""

from __future__ import annotations

from routes.chat.history import History, Parts, Value

TEXTS = frozenset({"text", "input_text", "output_text"})


def _image(part: Value) -> Value | None:
    return part if isinstance(part.get("image_url"), str | dict) else None  # by the id of a file, none is


IMAGES = {"image_url": _image, "input_image": _image}
EARLIER = Parts(TEXTS, IMAGES)
ANSWER = Parts(TEXTS | {"refusal", "thinking", "reasoning", "redacted_thinking"}, {})
RESULT = Parts(TEXTS | {"file", "input_file"}, IMAGES)  # its files are notes once the conversation is built


def _tool_message(message: Value) -> Value:
    if message.get("role") not in ("tool", "function"):
        return message
    return {**message, "content": RESULT.readable(message.get("content"))}


def _call_output(item: Value) -> Value:
    if item.get("type") != "function_call_output":
        return item
    return {**item, "output": RESULT.readable(item.get("output"))}


CHAT = History(lambda message: message.get("role") == "assistant", _tool_message, EARLIER, ANSWER)
RESPONSES = History(
    lambda item: item.get("role") == "assistant" or item.get("type") in ("function_call", "reasoning"),
    _call_output,
    EARLIER,
    ANSWER,
)
