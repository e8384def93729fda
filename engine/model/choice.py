"""The sampled token of one row. Imports no torch, so that the engine's bookkeeping does not need it."""

from __future__ import annotations

from typing import NamedTuple


class Choice(NamedTuple):
    """The sampled token of one row.

    finite: False if a logit was NaN or infinite; the token is then meaningless. logprob, top: log probability of the
    token, and the most probable tokens with theirs, in descending order; for requests with `logprobs`.
    """

    token_id: int
    finite: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
