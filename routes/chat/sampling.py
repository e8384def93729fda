"""The engine's sampling parameters of a request: its fields, else the checkpoint's values, else neutral ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from engine.backend import Backend
from engine.types import AnswerRules, SamplingParams, TokenMask
from routes.chat.grammars import NewMask
from routes.chat.lengths import bound_of
from routes.sampling import default_sampling

LIKELIEST = 1e-6  # of top_p, by which the likeliest token alone is left: what a request means by 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling fields of a request; None takes the checkpoint's value, or a neutral one.

    return_token_ids: the tokens of prompt and answers are shown too; return_tokens_as_token_ids: log probabilities name
    tokens by their ids; echo: the text of the prompt is shown.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    echo: bool = False


def choices(
    backend: Backend,
    sampling: Sampling,
    n: int,
    logprobs: int | None,
    new_mask: NewMask = lambda: None,
    rules: AnswerRules | None = None,
) -> list[SamplingParams]:
    """Return the parameters of each answer to one prompt; seeds differ, or all answers would be the same.

    logprobs: the number of alternatives for each token, None for no log probabilities. rules: what the masks enforce.
    """
    default, seed = default_sampling(backend), sampling.seed
    seeds = [None if seed is None else seed + number for number in range(n)]
    return [_params(default, sampling, logprobs, rules, one, new_mask()) for one in seeds]


def _params(
    default: SamplingParams,
    sampling: Sampling,
    logprobs: int | None,
    rules: AnswerRules | None,
    seed: int | None,
    mask: TokenMask | None,
) -> SamplingParams:
    return replace(
        default,
        max_tokens=bound_of(sampling.max_tokens),
        fit_context=True,
        temperature=_given(sampling.temperature, default.temperature),
        names_temperature=sampling.temperature is not None,
        top_p=max(LIKELIEST, _given(sampling.top_p, default.top_p)),
        top_k=default.top_k if sampling.top_k is None else max(0, sampling.top_k),
        min_p=_given(sampling.min_p, default.min_p),
        presence_penalty=_given(sampling.presence_penalty, 0.0),
        frequency_penalty=_given(sampling.frequency_penalty, 0.0),
        repetition_penalty=_given(sampling.repetition_penalty, default.repetition_penalty),
        logit_bias=sampling.logit_bias,
        seed=seed,
        stop=sampling.stop,
        logprobs=logprobs,
        token_mask=mask,
        ignore_eos=sampling.ignore_eos,
        min_tokens=sampling.min_tokens,
        return_token_ids=sampling.return_token_ids,
        return_tokens_as_token_ids=sampling.return_tokens_as_token_ids and logprobs is not None,
        echo=sampling.echo,
        rules=rules,
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else float(value)
