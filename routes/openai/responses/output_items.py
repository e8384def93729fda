"""The output of one answer, item by item as it is generated: reasoning, messages and calls of functions.

The items are the same whether they are sent whole or event by event: each method returns the events of what it adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from engine.types import TokenLogprob
from routes.chat.output import CallArguments, CallBegin, CallEnd, Content, OutputParser, Part, Reasoning
from routes.chat.pending_logprobs import PendingLogprobs
from routes.openai.responses.bodies import ItemStatus, OutputItem
from routes.openai.responses.events import Events
from routes.openai.responses.namespaces import Namespaces
from routes.openai.responses.open_items import OpenCall, OpenMessage, OpenReasoning

OpenItem = OpenMessage | OpenReasoning | OpenCall


class OutputItems:
    """The items of one answer.

    parser: of this answer, None for one that is text alone. namespaces: of the functions that it may call. items: those
    that are finished.
    """

    def __init__(self, events: Events, parser: OutputParser | None, namespaces: Namespaces) -> None:
        self._events, self._parser, self._namespaces = events, parser, namespaces
        self._open: OpenItem | None = None
        self._pending = PendingLogprobs()
        self.items: list[OutputItem] = []

    @property
    def reasoned(self) -> Sequence[range]:
        """Where in the text of the answer reasoning stands, once it has ended."""
        return () if self._parser is None else self._parser.reasoned

    def feed(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """Take the next piece of the answer."""
        self._pending.add(logprobs)
        if self._parser is None:
            return self._message(text, self._pending.take_until(math.inf)) if text else b""
        return b"".join([self._add(part) for part in self._parser.feed(text)])

    def finish(self, complete: bool) -> bytes:
        """End the answer. complete: False if it was cut by its length, and its last item with it."""
        shown = b"" if self._parser is None else b"".join([self._add(part) for part in self._parser.finish()])
        if self._open is None and not self.items:
            shown += self._enter(OpenMessage)
        # Of a character that never became whole.
        rest = [one for one in self._pending.take_until(math.inf) if one.in_text and not one.token]
        if rest and isinstance(self._open, OpenMessage):
            shown += self._open.add_with("", rest)
        return shown + self._close("completed" if complete else "incomplete")

    def _add(self, part: Part) -> bytes:
        match part:
            case Content():
                _, own = self._pending.take(part.span)
                return self._message(part.text, own)
            case Reasoning():
                self._pending.take(part.span)
                begun = b"" if isinstance(self._open, OpenReasoning) else self._enter(OpenReasoning)
            case CallBegin():
                return self._enter(lambda events, index: OpenCall(events, index, part, self._namespaces))
            case CallArguments():
                begun = b""
            case CallEnd():
                return self._close("completed" if part.complete else "incomplete")
        assert isinstance(self._open, OpenReasoning | OpenCall)
        return begun + self._open.add(part.text)

    def _message(self, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        begun = b"" if isinstance(self._open, OpenMessage) else self._enter(OpenMessage)
        assert isinstance(self._open, OpenMessage)
        return begun + self._open.add_with(text, logprobs)

    def _enter(self, opened: Callable[[Events, int], OpenItem]) -> bytes:
        closed = self._close("completed")
        self._open = opened(self._events, len(self.items))
        return closed + self._open.begin()

    def _close(self, status: ItemStatus) -> bytes:
        if self._open is None:
            return b""
        shown, item = self._open.end(status)
        self.items.append(item)
        self._open = None
        return shown
