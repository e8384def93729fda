"""The parts that bodies and stream events of /v1 have in common."""

from __future__ import annotations

from collections.abc import Sequence

from edge import errors
from engine.errors import ServiceError
from engine.text.spelling import name_of
from engine.types import Completion, Echo, TokenLogprob
from routes import response_models, sse
from routes.response_models import (
    ChatLogprobs,
    ChosenTokenLogprob,
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


def usage(completions: Sequence[Completion], prompts: int = 1) -> Usage:
    """Return the counts of tokens; several answers to one prompt count it once. prompts: the number of prompts."""
    each = len(completions) // prompts
    prompt_tokens = sum(completion.prompt_tokens for completion in completions[::each])
    completion_tokens = sum(completion.output_tokens for completion in completions)
    cached = sum(completion.cached_tokens for completion in completions[::each])
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def chat_logprobs(tokens: Sequence[TokenLogprob], as_ids: bool = False) -> ChatLogprobs:
    """Return log probabilities as chats show them, without tokens that have no text, such as the end token.

    as_ids: name every token by its id, those without a text too.
    """
    return ChatLogprobs(content=[_chosen(token, as_ids) for token in tokens if as_ids or token.token], refusal=None)


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
    shown = [token for token in tokens if every or as_ids or token.token]
    return TextLogprobs(
        tokens=[_name(token.token_id, token.token, _data(token), as_ids) for token in shown],
        token_logprobs=[_finite(token.logprob) for token in shown],
        top_logprobs=[_top(token, as_ids) for token in shown],
        text_offset=[before + token.offset for token in shown],
    )


def echo_logprobs(echo: Echo, tokens: Sequence[TokenLogprob], as_ids: bool = False) -> TextLogprobs:
    """Return those of a prompt, whose first token has none, and of the answer behind it: an entry for every token."""
    shown = text_logprobs(echo.logprobs, 0, as_ids, every=True)
    shown["token_logprobs"][:1], shown["top_logprobs"][:1] = [None], [None]
    answer = text_logprobs(tokens, len(echo.text), as_ids, every=True)
    return TextLogprobs(
        tokens=shown["tokens"] + answer["tokens"],
        token_logprobs=shown["token_logprobs"] + answer["token_logprobs"],
        top_logprobs=shown["top_logprobs"] + answer["top_logprobs"],
        text_offset=shown["text_offset"] + answer["text_offset"],
    )


def _top(token: TokenLogprob, as_ids: bool) -> dict[str, float]:
    top = {
        _name(token_id, text, data, as_ids): _finite(value)
        for token_id, text, value, data in _alternatives(token)
        if token_id != token.token_id
    }
    own = {_name(token.token_id, token.token, _data(token), as_ids): _finite(token.logprob)}
    ranked = sorted((top | own).items(), key=lambda item: item[1], reverse=True)
    return dict(ranked)


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
