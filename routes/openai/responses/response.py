"""The answer to a request for a response: one object, or the events that lead to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

from edge.errors import meaning_of
from engine.backend import Generation
from engine.errors import ServiceError
from engine.types import Completion
from routes import sse
from routes.chat.reasoning_tokens import reasoning_tokens
from routes.chat.task import ChatRun
from routes.json_writing import json_bytes
from routes.openai.responses.bodies import (
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputMessage,
    OutputText,
    OutputTokensDetails,
    ResponseFailure,
    ResponseObject,
    ResponseUsage,
)
from routes.openai.responses.events import Events, NoEvents
from routes.openai.responses.namespaces import Namespaces
from routes.openai.responses.output_items import OutputItems
from routes.openai.responses.store import Draft
from routes.openai.score_room import hold_scores


class Answer:
    """The answer of one run. Made inside the request's context; streams are sent outside of it.

    begun: the object before anything is generated; draft: where it is to be stored, None for nowhere; namespaces: of
    the functions that may be called. `close` must be called in any case.
    """

    def __init__(self, chat: ChatRun, begun: ResponseObject, draft: Draft | None, namespaces: Namespaces) -> None:
        self._chat, self._run, self._begun, self._draft = chat, chat.run, begun, draft
        self._namespaces = namespaces

    @property
    def only(self) -> Generation | None:
        """The answer that is generated."""
        return self._run.only

    def whole(self) -> ResponseObject:
        """Wait for the answer; return the finished object. Raises the error that it fails with."""
        try:
            output = self._output(NoEvents())
            (completion,) = self._run.results()
            output.feed(completion.text, completion.logprobs)
            output.finish(_complete(completion))
            return self._ended(output, completion, _usage(completion, output.reasoned))
        finally:
            self.close()

    def events(self, idle: float = sse.KEEP_ALIVE_SECONDS) -> Iterator[bytes]:
        """Yield the events of the stream. idle: seconds to a keep-alive."""
        events = Events()
        output = self._output(events)
        try:
            yield events("response.created", response=self._begun) + self._event(events, self._begun)
            yield from self._pieces(output, idle)
            completion = self._run.completion(0)
            rest = output.finish(_complete(completion))
            usage = _usage(completion, output.reasoned)
            if self._run.cost is not None:
                usage["cost"] = self._run.cost
            yield rest + self._event(events, self._ended(output, completion, usage))
        except Exception as error:
            yield self._failed(events, output, self._run.failed(error))

    def release_body(self) -> None:
        """Give back the room of the request's body, and take what the answer's log probabilities may need.

        Raises as `hold_scores` does.
        """
        self._run.release_body()
        try:
            hold_scores(self._run, "top_logprobs")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Abort what is not finished and give back what is held."""
        self._run.close()
        if self._draft is not None:
            self._draft.close()

    def _output(self, events: Events) -> OutputItems:
        return OutputItems(events, None if self._chat.plain else self._chat.new_parser(), self._namespaces)

    def _pieces(self, output: OutputItems, idle: float) -> Iterator[bytes]:
        for _, piece in self._run.pieces(idle):
            if piece is None:
                return
            if not (piece.text or piece.token_ids or piece.logprobs):
                yield sse.KEEP_ALIVE
            else:
                yield output.feed(piece.text, piece.logprobs)

    def _ended(self, output: OutputItems, completion: Completion, usage: ResponseUsage) -> ResponseObject:
        """Return the finished object, which is stored by then if it is to be."""
        complete = _complete(completion)
        response = self._with(
            output,
            status="completed" if complete else "incomplete",
            completed_at=int(time.time()) if complete else None,
            incomplete_details=None if complete else IncompleteDetails(reason="max_output_tokens"),
            usage=usage,
        )
        if self._draft is not None:
            items = json_bytes([_turn(item) for item in output.items])
            self._draft.keep(response["id"], json_bytes(response), items)
        return response

    def _failed(self, events: Events, output: OutputItems, error: ServiceError) -> bytes:
        """Return the last events of a stream that fails."""
        request_id = self._begun["request_id"]
        told = events("error", code=meaning_of(error).code, message=error.message, param=None, request_id=request_id)
        failure = ResponseFailure(code="server_error", message=error.message)
        return told + self._event(events, self._with(output, status="failed", error=failure))

    def _with(self, output: OutputItems, **fields: Any) -> ResponseObject:
        return cast(ResponseObject, {**self._begun, **fields, "output": output.items})

    def _event(self, events: Events, response: ResponseObject) -> bytes:
        return events(f"response.{response['status']}", response=response)


def _complete(completion: Completion) -> bool:
    return completion.finish_reason != "length"


def _turn(item: OutputItem) -> OutputItem:
    """Return an item as a later request reads it, without log probabilities."""
    if item["type"] != "message":
        return item
    parts = [cast(OutputText, {**part, "logprobs": []}) for part in item["content"]]
    return cast(OutputMessage, {**item, "content": parts})


def _usage(completion: Completion, reasoned: Sequence[range]) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=completion.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=completion.cached_tokens, cache_write_tokens=0),
        output_tokens=completion.output_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning_tokens(completion, reasoned)),
        total_tokens=completion.prompt_tokens + completion.output_tokens,
    )
