"""The response to a request: one message, or the events of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from edge.failure_shapes import anthropic_body
from edge.request_state import request_state
from engine.text.call_arguments import begun_object
from engine.types import Completion
from routes import sse
from routes.anthropic.block_events import BlockEvents
from routes.anthropic.bodies import (
    AnswerBlock,
    AnswerText,
    AnswerThinking,
    AnswerToolUse,
    MessageAnswer,
    MessageUsage,
    StopReason,
    ThinkingTokensDetails,
)
from routes.chat.output import Call, CallBegin, Content, OutputParser, ParsedAnswer, Part, Reasoning
from routes.chat.reasoning_tokens import reasoning_tokens
from routes.chat.task import ChatRun

PING = sse.event({"type": "ping"}, "ping")


class MessageResponse:
    """The response with the answer of one run. Made inside the request's context; streams are sent outside of it.

    hide_thinking: whether the text of the reasoning is left out.
    """

    def __init__(self, chat: ChatRun, hide_thinking: bool) -> None:
        self._chat, self._run, self._hide_thinking = chat, chat.run, hide_thinking
        self._request_id = request_state().request_id
        self._id = f"msg_{self._request_id}"

    def whole(self, completion: Completion) -> MessageAnswer:
        """Return the message."""
        parser = self._chat.new_parser()
        parts = [*parser.feed(completion.text), *parser.finish()]
        return self._message(self._blocks(parts), self._usage(completion, parser), completion, called=parser.called)

    def _blocks(self, parts: Sequence[Part]) -> list[AnswerBlock]:
        """Return the blocks of an answer, in the order in which a stream has them."""
        calls = ParsedAnswer.of(parts).calls
        blocks: list[AnswerBlock] = []
        for kind, run in groupby(parts, key=type):
            found = list(run)
            texts = "".join(part.text for part in found if isinstance(part, Content | Reasoning))
            if kind is Reasoning and texts:
                shown = "" if self._hide_thinking else texts
                blocks.append(AnswerThinking(type="thinking", thinking=shown, signature=self._id))
            elif kind is Content and texts:
                blocks.append(AnswerText(type="text", text=texts))
            blocks += [_tool_use(calls[part.index]) for part in found if isinstance(part, CallBegin)]
        return blocks

    def events(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield the events of the stream; an error is the last one. idle: seconds to a ping."""
        try:
            yield from self._events(idle)
        except Exception as error:
            yield sse.event(anthropic_body(self._run.failed(error), self._request_id), "error")

    def _events(self, idle: float) -> Iterator[bytes]:
        blocks = BlockEvents(self._id, self._hide_thinking)
        parser = None if self._chat.plain else self._chat.new_parser()
        begun = self._message([], _empty_usage(self._run.prompt_tokens))
        yield sse.event({"type": "message_start", "message": begun}, "message_start") + PING
        for _, piece in self._run.pieces(idle):
            if piece is None:
                break
            if not piece.text and not piece.token_ids:
                yield PING
                continue
            parts: list[Part] = [Content(piece.text)] if parser is None else parser.feed(piece.text)
            yield blocks.show(parts)
        rest = blocks.show([] if parser is None else parser.finish()) + blocks.close()
        yield rest + self._end(self._run.completion(0), parser)

    def _end(self, completion: Completion, parser: OutputParser | None) -> bytes:
        usage = self._usage(completion, parser)
        if self._run.cost is not None:
            usage["cost"] = self._run.cost
        ended = self._message([], usage, completion, parser is not None and parser.called)
        delta = {"stop_reason": ended["stop_reason"], "stop_sequence": ended["stop_sequence"]}
        change = {"type": "message_delta", "delta": delta, "usage": ended["usage"]}
        return sse.event(change, "message_delta") + sse.event({"type": "message_stop"}, "message_stop")

    def _usage(self, completion: Completion, parser: OutputParser | None) -> MessageUsage:
        """Return the counts of a finished answer. parser: of it, None for one that is text alone."""
        usage = _usage(completion)
        if parser is not None and self._chat.thinking:
            thought = reasoning_tokens(completion, parser.reasoned)
            usage["output_tokens_details"] = ThinkingTokensDetails(thinking_tokens=thought)
        return usage

    def _message(
        self,
        content: list[AnswerBlock],
        usage: MessageUsage,
        completion: Completion | None = None,
        called: bool = False,
    ) -> MessageAnswer:
        return MessageAnswer(
            id=self._id,
            type="message",
            role="assistant",
            model=self._run.model_id,
            content=content,
            stop_reason=None if completion is None else _stop_reason(completion, called),
            stop_sequence=None if completion is None else completion.stop,
            usage=usage,
        )


def _stop_reason(completion: Completion, called: bool) -> StopReason:
    """Return why an answer ended: a call counts only if the answer was not cut."""
    if completion.finish_reason == "length":
        return "max_tokens"
    if completion.stop is not None:
        return "stop_sequence"
    return "tool_use" if called else "end_turn"


def _usage(completion: Completion) -> MessageUsage:
    return MessageUsage(
        input_tokens=completion.prompt_tokens - completion.cached_tokens,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=completion.cached_tokens,
        output_tokens=completion.output_tokens,
    )


def _empty_usage(prompt_tokens: int) -> MessageUsage:
    """Return what is known before the first token; the last event has the counts that hold."""
    return MessageUsage(
        input_tokens=prompt_tokens, cache_creation_input_tokens=0, cache_read_input_tokens=0, output_tokens=0
    )


def _tool_use(call: Call) -> AnswerToolUse:
    return AnswerToolUse(type="tool_use", id=call.id, name=call.name, input=begun_object(call.arguments))
