"""The items of an output while they are written: a message, a reasoning or a call, each with its events."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, ClassVar

from engine.types import TokenLogprob
from routes.chat.output import CallBegin
from routes.openai.answers import chosen_tokens
from routes.openai.responses.bodies import (
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
)
from routes.openai.responses.events import Events
from routes.openai.responses.namespaces import Namespaces

ADDED, DONE = "response.output_item.added", "response.output_item.done"
PART_ADDED, PART_DONE = "response.content_part.added", "response.content_part.done"


def new_id(kind: str) -> str:
    """Return an id that nobody can guess, of at most 64 characters."""
    return f"{kind}_{secrets.token_hex(24)}"


class _OpenText:
    """An item of one text. index: of the item in the output."""

    prefix: ClassVar[str]  # of its id
    kind: ClassVar[str]  # of its text, as its events name it

    def __init__(self, events: Events, index: int) -> None:
        self._events, self._id = events, new_id(self.prefix)
        self._index = {"output_index": index}
        self._part: dict[str, Any] = {"item_id": self._id, **self._index, "content_index": 0}
        self._texts: list[str] = []
        self._delta = events.deltas(f"response.{self.kind}.delta", **self._part, **self._more())

    def begin(self) -> bytes:
        """Return its first events."""
        added = self._events(ADDED, **self._index, item=self._item("in_progress", begun=False))
        return added + self._events(PART_ADDED, **self._part, part=self._content())

    def add(self, text: str) -> bytes:
        """Add a piece of its text."""
        self._texts.append(text)
        return self._delta(text)

    def end(self, status: ItemStatus) -> tuple[bytes, OutputItem]:
        """Return its last events and the item."""
        part, item = self._content(), self._item(status)
        text = self._events(f"response.{self.kind}.done", **self._part, **self._more(), text=part["text"])
        done = self._events(PART_DONE, **self._part, part=part) + self._events(DONE, **self._index, item=item)
        return text + done, item

    def _more(self) -> dict[str, Any]:
        """Return what else its text has."""
        return {}

    def _content(self) -> OutputText | ReasoningText:
        raise NotImplementedError

    def _item(self, status: ItemStatus, begun: bool = True) -> OutputItem:
        """Return the item. begun: whether its text is in it."""
        raise NotImplementedError


class OpenMessage(_OpenText):
    """A message."""

    prefix, kind = "msg", "output_text"

    def __init__(self, events: Events, index: int) -> None:
        self._logprobs: list[TokenLogprob] = []
        super().__init__(events, index)

    def add_with(self, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """Add a piece of its text, with the log probabilities of the tokens since the last one."""
        if not logprobs:
            return self.add(text)
        self._texts.append(text)
        self._logprobs += logprobs
        shown = chosen_tokens(logprobs)
        return self._events("response.output_text.delta", **self._part, logprobs=shown, delta=text)

    def _more(self) -> dict[str, Any]:
        return {"logprobs": chosen_tokens(self._logprobs)}

    def _content(self) -> OutputText:
        logprobs = chosen_tokens(self._logprobs)
        return OutputText(type="output_text", text="".join(self._texts), annotations=[], logprobs=logprobs)

    def _item(self, status: ItemStatus, begun: bool = True) -> OutputMessage:
        content = [self._content()] if begun else []
        return OutputMessage(id=self._id, type="message", status=status, role="assistant", content=content)


class OpenReasoning(_OpenText):
    """A reasoning."""

    prefix, kind = "rs", "reasoning_text"

    def _content(self) -> ReasoningText:
        return ReasoningText(type="reasoning_text", text="".join(self._texts))

    def _item(self, status: ItemStatus, begun: bool = True) -> OutputReasoning:
        content = [self._content()] if begun else []
        return OutputReasoning(id=self._id, type="reasoning", status=status, summary=[], content=content)


class OpenCall:
    """A call. index: of the item in the output; namespaces: of functions that were given in one."""

    def __init__(self, events: Events, index: int, part: CallBegin, namespaces: Namespaces) -> None:
        self._events, self._id = events, new_id("fc")
        self._call_id = part.id
        self._namespace, self._name = namespaces.get(part.name, ("", part.name))
        self._index: dict[str, Any] = {"output_index": index}
        self._texts: list[str] = []
        self._delta = events.deltas("response.function_call_arguments.delta", item_id=self._id, **self._index)

    def begin(self) -> bytes:
        """Return its first event."""
        return self._events(ADDED, **self._index, item=self._item("in_progress"))

    def add(self, text: str) -> bytes:
        """Add a piece of its arguments."""
        self._texts.append(text)
        return self._delta(text)

    def end(self, status: ItemStatus) -> tuple[bytes, OutputItem]:
        """Return its last events and the item."""
        item = self._item(status)
        said = {"name": self._name, "arguments": item["arguments"]}
        done = self._events("response.function_call_arguments.done", item_id=self._id, **self._index, **said)
        return done + self._events(DONE, **self._index, item=item), item

    def _item(self, status: ItemStatus) -> OutputCall:
        item = OutputCall(
            id=self._id,
            type="function_call",
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments="".join(self._texts),
        )
        if self._namespace:
            item["namespace"] = self._namespace
        return item
