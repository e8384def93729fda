"""Answers: their parts, their ends, and the text of tokens. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

FinishReason = Literal["stop", "length", "abort"]

UNKNOWN_TOKEN = -1  # the id of a token of a server elsewhere


class Echo(Protocol):
    """A prompt that is shown with its answer. Reading it takes milliseconds for a long one."""

    @property
    def text(self) -> str:
        """Its text, with control tokens by their names."""

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """Its tokens with their log probabilities, where those are asked for; the first one's means nothing."""


@dataclass(frozen=True, slots=True)
class Spelled:
    """The text of token ids, and that of each: a part of a character as its bytes, `bytes:\\xf0\\x9f`."""

    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log probability (natural logarithm), and the likeliest alternatives, best first.

    data: what it adds to the text, None for the bytes of `token`; top_data: the same of the alternatives, () for those
    of their texts. A part of a character is U+FFFD as a text. offset: where it begins in the text, in characters.
    """

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    data: bytes | None = None
    top_data: tuple[bytes, ...] = ()
    offset: int = 0

    @property
    def in_text(self) -> bool:
        """Whether it is one of the text: without a text, ours are control tokens, a server's also parts of characters,
        as vLLM has them.
        """
        return bool(self.token) or self.token_id == UNKNOWN_TOKEN


class Piece(NamedTuple):
    """A part of an answer that may be shown: whole characters only, no special tokens, no part of a stop string.

    echo: of the first part, if it is wanted.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """When one request started, had its first token (None without one) and ended, in seconds from `submit`."""

    queued: float
    first_token: float | None
    total: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer.

    output_tokens counts every generated token, including an end-of-sequence token; token_ids are these. stop: the stop
    string that ended it, None where none did. token_offsets: where in the text each token begins, in characters, if the
    model may reason; reasoning_tokens: as a server elsewhere has counted them. from_cache: nothing was computed, an
    earlier answer was kept.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    stop: str | None = None
    token_ids: tuple[int, ...] = ()
    token_offsets: tuple[int, ...] = ()
    reasoning_tokens: int | None = None
    echo: Echo | None = None
    from_cache: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """What an answer took, however it ended: tokens of its prompt and of itself, and seconds of being computed."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.seconds + other.seconds,
        )

    @classmethod
    def on(cls, completion: Completion) -> Spent:
        """Return what a finished answer took; one that was kept took nothing again."""
        if completion.from_cache:
            return cls()
        seconds = completion.timings.total - completion.timings.queued
        return cls(completion.prompt_tokens, completion.output_tokens, completion.cached_tokens, seconds)
