"""Which blocks of earlier turns and of results are read."""

from __future__ import annotations

from routes.chat.history import History, Parts, Value


def _image(block: Value) -> Value | None:
    source = block.get("source")
    known = isinstance(source, dict) and source.get("type") == "base64" and isinstance(source.get("data"), str)
    return block if known else None


def _uncited(block: Value) -> Value:
    """Return a block without the wish to cite it: it was one of the question that had it."""
    return {name: value for name, value in block.items() if name != "citations"}


def _found(block: Value) -> Value | None:
    content = block.get("content")
    if not isinstance(content, list) or not all(_is_text(part) for part in content):
        return None
    named = {name: block[name] if isinstance(block.get(name), str) else "" for name in ("title", "source")}
    return _uncited({**block, **named})


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _document(block: Value) -> Value | None:
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") not in ("text", "content"):
        return None
    if source["type"] == "text" and not isinstance(source.get("data"), str):
        return None
    if source["type"] == "content":
        if not isinstance(source.get("content"), str | list):
            return None
        block = {**block, "source": {**source, "content": DOCUMENT.readable(source.get("content"))}}
    return _uncited(block)


DOCUMENT = Parts(frozenset({"text"}), {"image": _image})
READERS = {"image": _image, "document": _document, "search_result": _found}
RESULT = Parts(frozenset({"text", "tool_reference"}), READERS)
EARLIER = Parts(frozenset({"text", "tool_result"}), READERS)
ANSWER = Parts(frozenset({"text", "tool_use", "thinking", "redacted_thinking"}), {})


def _has_results(message: Value) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(_is_result(block) for block in content)


def _is_result(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_result"


def _results(message: Value) -> Value:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": [_result(block) for block in content]}


def _result(block: Value) -> Value:
    return block if not _is_result(block) else {**block, "content": RESULT.readable(block.get("content"))}


MESSAGES = History(lambda message: message.get("role") == "assistant", _has_results, _results, EARLIER, ANSWER)
