"""How answers are sampled. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from engine.types.rules import AnswerRules


class TokenMask(Protocol):
    """A grammar's hook for one sequence, called by the engine's thread only."""

    @property
    def ready(self) -> bool:
        """Whether `bitmask` will not take long; until then the sequence sits steps out."""

    @property
    def quick(self) -> bool:
        """Whether `bitmask` will not take long soon after a token that is not accepted yet."""

    @property
    def step_seconds(self) -> float:
        """By how many seconds the sequence is likely to lengthen a step, beside what it computes."""

    @property
    def usual_seconds(self) -> float:
        """The same of the step after one whose token is not accepted yet."""

    @property
    def spent(self) -> float:
        """The seconds that all masks of the answer took, and accepting its tokens."""

    def bitmask(self) -> Any:
        """Return the tokens allowed next: numpy int32 [ceil(vocab/32)], bit i of word i//32 set where allowed."""

    def accept(self, token_id: int) -> bool:
        """Advance by one sampled token; False if it does not count and is to be chosen again in a later step.

        Raises a ServiceError that becomes the answer's, if the grammar has failed.
        """

    def prepare(self) -> None:
        """Have the next mask computed, once the tokens of all rows of a step are accepted."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one answer is sampled; already validated.

    max_tokens: maximum number of new tokens; fit_context: it gives way to what the prompt leaves of the context.
    temperature: 0 is greedy. top_k: 0 keeps all. logprobs: number of alternatives for each token (None: no log
    probabilities). stop: strings that end the answer and are not shown. seed: the same seed gives the same answer,
    whatever else is in the batch. token_mask: a grammar. min_tokens: before so many tokens no end token is drawn and
    no stop string looked for; not together with a token_mask. return_token_ids: the prompt's tokens are wanted too.
    echo: its text is, and with `logprobs` the log probabilities of its tokens; then max_tokens may be 0.
    rules: what the token_mask enforces, for a backend that is no engine of ours. names_temperature: the request names
    its temperature, which otherwise is the default. return_tokens_as_token_ids: log probabilities are shown with ids.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    token_mask: TokenMask | None = None
    ignore_eos: bool = False
    fit_context: bool = False
    min_tokens: int = 0
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    echo: bool = False
    rules: AnswerRules | None = None
    names_temperature: bool = True

    def within(self, room: int) -> SamplingParams:
        """Return the parameters where `room` tokens are left of the context."""
        return replace(self, max_tokens=room) if self.fit_context and 0 < room < self.max_tokens else self
