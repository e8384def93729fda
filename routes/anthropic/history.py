"""Which blocks of earlier turns and of results are read."""

from __future__ import annotations

from routes.chat.history import History, Parts, Value


def _image(block: Value) -> Value | None:
    source = block.get("source")
    return block if isinstance(source, dict) and source.get("type") == "base64" else None


def _found(block: Value) -> Value:
    """Return a block without the wish to cite it: it was one of the question that had it."""
    return {name: value for name, value in block.items() if name != "citations"}


def _document(block: Value) -> Value | None:
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") not in ("text", "content"):
        return None
    if source["type"] == "content":
        block = {**block, "source": {**source, "content": DOCUMENT.readable(source.get("content"))}}
    return _found(block)


DOCUMENT = Parts(frozenset({"text"}), {"image": _image})
READERS = {"image": _image, "document": _document, "search_result": _found}
RESULT = Parts(frozenset({"text", "tool_reference"}), READERS)
EARLIER = Parts(frozenset({"text", "tool_result"}), READERS)
ANSWER = Parts(frozenset({"text", "tool_use", "thinking", "redacted_thinking"}), {})


def _results(message: Value) -> Value:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_result(block) for block in content]}


def _result(block: Value) -> Value:
    if not isinstance(block, dict) or block.get("type") != "tool_result":
        return block
    return {**block, "content": RESULT.readable(block.get("content"))}


MESSAGES = History(lambda message: message.get("role") == "assistant", _results, EARLIER, ANSWER)
