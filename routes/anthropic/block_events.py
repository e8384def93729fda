"""The events of the content blocks of one answer, from its parts as they come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from routes import sse
from routes.anthropic.bodies import AnswerBlock, AnswerText, AnswerThinking, AnswerToolUse
from routes.chat.output import CallArguments, CallBegin, CallEnd, Content, Part, Reasoning

# The kind of a block's deltas, and the field that holds their text.
DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


class BlockEvents:
    """One block is open at a time: it begins with its first part and is closed by one of another kind.

    signature: of the reasoning, whose text `hide_thinking` leaves out.
    """

    def __init__(self, signature: str, hide_thinking: bool) -> None:
        self._signature, self._hide_thinking = signature, hide_thinking
        self._index = -1
        self._open = ""  # the type of the open block
        self._delta = sse.TextEvents(sse.TextEvents.HOLE)

    def show(self, parts: Sequence[Part]) -> bytes:
        """Return the events for the next parts, b"" if there are none."""
        return b"".join([self._events(part) for part in parts])

    def close(self) -> bytes:
        """Return the events that end the open block, if there is one."""
        if not self._open:
            return b""
        stop = self._event("content_block_stop", {})
        if self._open == "thinking":
            signed = {"delta": {"type": "signature_delta", "signature": self._signature}}
            stop = self._event("content_block_delta", signed) + stop
        self._open = ""
        return stop

    def _events(self, part: Part) -> bytes:
        match part:
            case CallEnd():
                return self.close()
            case CallArguments():
                return self._delta(part.text) if part.text else b""
            case CallBegin():
                return self._begin(AnswerToolUse(type="tool_use", id=part.id, name=part.name, input={}))
            case Reasoning():
                begun = b"" if self._open == "thinking" else self._begin(_THINKING)
                return begun if self._hide_thinking else begun + self._delta(part.text)
            case Content():
                if not part.text:
                    return b""
                begun = b"" if self._open == "text" else self._begin(_TEXT)
                return begun + self._delta(part.text)

    def _begin(self, block: AnswerBlock) -> bytes:
        ended = self.close()
        self._index, self._open = self._index + 1, block["type"]
        kind, field = DELTAS[block["type"]]
        name = "content_block_delta"
        delta = {"type": name, "index": self._index, "delta": {"type": kind, field: sse.TextEvents.HOLE}}
        self._delta = sse.TextEvents(delta, name)
        return ended + self._event("content_block_start", {"content_block": block})

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        return sse.event({"type": name, "index": self._index, **fields}, name)


_TEXT, _THINKING = AnswerText(type="text", text=""), AnswerThinking(type="thinking", thinking="", signature="")
