"""The parts that bodies and stream events of /v1 have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from edge import errors
from engine.errors import ServiceError
from engine.text.spelling import name_of
from engine.types import UNKNOWN_TOKEN, Completion, Echo, TokenLogprob
from routes import response_models, sse
from routes.json_writing import built_later
from routes.response_models import (
    ChatLogprobs,
    ChosenTokenLogprob,
    CompletionTokensDetails,
    FinishReason,
    PromptTokensDetails,
    TextLogprobs,
    Usage,
)

DONE = b"data: [DONE]\n\n"
LOWEST_LOGPROB = -9999.0  # OpenAI's value for a token of negligible probability


def error_event(error: ServiceError, request_id: str) -> bytes:
    """Return the last event of a stream that fails; no [DONE] follows it."""
    return sse.event(errors.openai_body(error, request_id))


def fingerprint(found: str | None) -> dict[str, str]:
    """Return the field of events that names what computed an answer, where that is known."""
    return {} if found is None else {"system_fingerprint": found}


def finish_reason(completion: Completion) -> FinishReason:
    """Return why an answer ended. An aborted answer raises an error and has no completion."""
    return "length" if completion.finish_reason == "length" else "stop"


def stop_reason(completion: Completion) -> dict[str, str]:
    """Return the field of a choice with the stop string that ended it, as vLLM has it; none where none did."""
    return {} if completion.stop is None else {"stop_reason": completion.stop}


def usage(completions: Sequence[Completion], prompts: int = 1, reasoning_tokens: int | None = None) -> Usage:
    """Return the counts of tokens; several answers to one prompt count it once. prompts: the number of prompts.

    reasoning_tokens: of all answers, None where there can be none.
    """
    each = len(completions) // prompts
    prompt_tokens = sum(completion.prompt_tokens for completion in completions[::each])
    completion_tokens = sum(completion.output_tokens for completion in completions)
    cached = sum(completion.cached_tokens for completion in completions[::each])
    counts = Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )
    if reasoning_tokens is not None:
        counts["completion_tokens_details"] = CompletionTokensDetails(reasoning_tokens=reasoning_tokens)
    return counts


def chat_logprobs(tokens: Sequence[TokenLogprob], as_ids: bool = False) -> ChatLogprobs:
    """Return log probabilities as chats show them, without tokens that have no text, such as the end token.

    as_ids: name every token by its id, those without a text too.
    """
    return ChatLogprobs(content=chosen_tokens(tokens, as_ids), refusal=None)


def chosen_tokens(tokens: Sequence[TokenLogprob], as_ids: bool = False) -> Sequence[ChosenTokenLogprob]:
    """Return the entries of `chat_logprobs`."""
    return built_later([token for token in tokens if as_ids or token.in_text], partial(_chosen, as_ids=as_ids))


def _chosen(token: TokenLogprob, as_ids: bool) -> ChosenTokenLogprob:
    return ChosenTokenLogprob(
        token=_id_name(token.token_id) if as_ids else token.token,
        logprob=_finite(token.logprob),
        bytes=list(_data(token)),
        top_logprobs=[
            response_models.TokenLogprob(
                token=_id_name(token_id) if as_ids else text, logprob=_finite(logprob), bytes=list(data)
            )
            for token_id, text, logprob, data in _alternatives(token)
        ],
    )


def text_logprobs(
    tokens: Sequence[TokenLogprob], before: int = 0, as_ids: bool = False, every: bool = False
) -> TextLogprobs:
    """Return log probabilities as plain completions show them; the sampled token is always among the likeliest.

    before: how many characters stand before the answer in the text that is shown; as_ids: as for chats; every: show
    tokens without a text too.
    """
    return _text_logprobs([_Entry(token, before) for token in tokens if every or as_ids or token.in_text], as_ids)


def echo_logprobs(echo: Echo, tokens: Sequence[TokenLogprob], as_ids: bool = False) -> TextLogprobs:
    """Return those of a prompt, whose first token has none, and of the answer behind it: an entry for every token."""
    prompt = [_Entry(token, 0, scored=index > 0) for index, token in enumerate(echo.logprobs)]
    before = len(echo.text)  # which is made anew each time
    return _text_logprobs([*prompt, *(_Entry(token, before) for token in tokens)], as_ids)


class _Entry(NamedTuple):
    """A token of a text. before: how many characters stand before what its offset counts in; scored: has a value."""

    token: TokenLogprob
    before: int
    scored: bool = True


def _text_logprobs(entries: Sequence[_Entry], as_ids: bool) -> TextLogprobs:
    return TextLogprobs(
        tokens=built_later(entries, lambda one: _own_name(one.token, as_ids)),
        token_logprobs=built_later(entries, lambda one: _finite(one.token.logprob) if one.scored else None),
        top_logprobs=built_later(entries, lambda one: _top(one.token, as_ids) if one.scored else None),
        text_offset=built_later(entries, lambda one: one.before + one.token.offset),
    )


def _top(token: TokenLogprob, as_ids: bool) -> dict[str, float]:
    top = {
        _name(token_id, text, data, as_ids): _finite(value)
        for token_id, text, value, data in _alternatives(token)
        if token_id == UNKNOWN_TOKEN or token_id != token.token_id
    }
    own = {_own_name(token, as_ids): _finite(token.logprob)}
    ranked = sorted((top | own).items(), key=lambda item: item[1], reverse=True)
    return dict(ranked)


def _own_name(token: TokenLogprob, as_id: bool) -> str:
    return _name(token.token_id, token.token, _data(token), as_id)


def _name(token_id: int, text: str, data: bytes, as_id: bool) -> str:
    """Return a token's text, for a part of a character its bytes as OpenAI spells them: all parts have one text."""
    if as_id:
        return _id_name(token_id)
    return text if text.encode() == data else name_of(data)


def _id_name(token_id: int) -> str:
    return f"token_id:{token_id}"  # as vLLM names it


def _data(token: TokenLogprob) -> bytes:
    return token.token.encode() if token.data is None else token.data


def _alternatives(token: TokenLogprob) -> list[tuple[int, str, float, bytes]]:
    """Return the likeliest tokens, each with its id, text, log probability and bytes."""
    data = token.top_data or tuple(text.encode() for _, text, _ in token.top)
    return [(*one, own) for one, own in zip(token.top, data, strict=True)]


def _finite(logprob: float) -> float:
    """Return a log probability as JSON can represent it, which has no infinity."""
    return max(logprob, LOWEST_LOGPROB)
