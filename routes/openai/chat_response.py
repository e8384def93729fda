"""The response to a chat request: one body, or a stream of events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.types import Completion
from routes import sse
from routes.chat.output import ParsedAnswer
from routes.chat.reasoning_tokens import reasoning_tokens
from routes.chat.task import ChatRun
from routes.openai import answers
from routes.openai.chat_events import ChoiceEvents, Details, ParsedChoiceEvents, finish_reason, shown_call
from routes.openai.requests import ChatRequest
from routes.openai.run_response import RunResponse
from routes.response_models import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
)


class ChatResponse(RunResponse):
    """The response with the answers of one run. Made inside the request's context; streams are sent outside of it."""

    def __init__(self, chat: ChatRun, body: ChatRequest) -> None:
        super().__init__(chat.run, body, "chatcmpl", "chat.completion.chunk")
        self._chat = chat
        self._details = Details(bool(body.logprobs), bool(body.return_token_ids), bool(body.return_tokens_as_token_ids))
        self._reasoning = [0] * len(chat.run)  # tokens of each answer that has ended

    @property
    def _reasoning_tokens(self) -> int | None:
        return sum(self._reasoning) if self._chat.thinking else None

    def whole(self, completions: Sequence[Completion]) -> ChatCompletion:
        """Return the body with all answers."""
        choices = [self._choice(index, completion) for index, completion in enumerate(completions)]
        answer = ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._run.model_id,
            choices=choices,
            usage=answers.usage(completions, reasoning_tokens=self._reasoning_tokens),
        )
        if self._run.fingerprint is not None:
            answer["system_fingerprint"] = self._run.fingerprint
        if self._details.token_ids:
            answer["prompt_token_ids"] = self._run.prompt_token_ids(0)
        return answer

    def _choice(self, index: int, completion: Completion) -> ChatChoice:
        answer = self._chat.parsed(completion)
        self._reasoning[index] = reasoning_tokens(completion, answer.reasoned)
        choice = ChatChoice(
            index=index,
            message=_message(answer),
            logprobs=self._details.shown(completion.logprobs, answer.hidden),
            finish_reason=finish_reason(completion, answer.called),
        )
        if completion.stop is not None:
            choice["stop_reason"] = completion.stop
        if self._details.token_ids:
            choice["token_ids"] = list(completion.token_ids)
        return choice

    def _events(self, idle: float) -> Iterator[bytes]:
        completions: dict[int, Completion] = {}
        choices = [self._choice_events(index) for index in range(len(self._run))]
        prompt = {"prompt_token_ids": self._run.prompt_token_ids(0)} if self._details.token_ids else {}
        for choice in choices:
            yield choice.begin(prompt)
        for index, piece in self._pieces(idle):
            if piece is None:
                completions[index] = self._run.completion(index)
                yield choices[index].end(completions[index])
                self._reasoning[index] = reasoning_tokens(completions[index], choices[index].reasoned)
            elif piece.text or piece.token_ids or piece.logprobs:
                yield choices[index].show(piece)
            else:
                yield sse.KEEP_ALIVE
        yield from self._last_events(completions)

    def _choice_events(self, index: int) -> ChoiceEvents:
        if self._chat.plain and not self._details:
            return ChoiceEvents(self.chunk, index)
        return ParsedChoiceEvents(self.chunk, index, self._chat.new_parser(), self._details)


def _message(answer: ParsedAnswer) -> AnswerMessage:
    calls = [shown_call(call) for call in answer.calls]
    message = AnswerMessage(
        role="assistant", content=answer.content if answer.content or not calls else None, refusal=None
    )
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if calls:
        message["tool_calls"] = calls
    return message
