"""What a step has chosen for one row. No torch here, so that the bookkeeping goes without it."""

from __future__ import annotations

from typing import NamedTuple


class Choice(NamedTuple):
    """One row's outcome. finite: False where a logit was not a number or infinite; the token means nothing then.

    top: the likeliest tokens with their log probabilities, best first, for a request that asked for them.
    """

    token_id: int
    finite: bool
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
