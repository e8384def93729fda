"""What a step has chosen for one row. No torch here, so that the bookkeeping goes without it."""

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
