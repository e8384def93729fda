"""Counts the tokens of an answer that are reasoning, the same in every protocol, whole and streamed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from engine.types import Completion


def reasoning_tokens(completion: Completion, reasoned: Sequence[range]) -> int:
    """Return how many there are, with those of the tags. reasoned: where in the text reasoning stands, as parsed.

    Where it is not known which tokens these are, a server elsewhere may have counted them; else they are as many as
    their share of the text.
    """
    if offsets := completion.token_offsets:
        return sum(bisect_left(offsets, span.stop) - bisect_left(offsets, span.start) for span in reasoned)
    characters = sum(map(len, reasoned))
    if completion.reasoning_tokens or not characters:
        return min(completion.reasoning_tokens or 0, completion.output_tokens)
    share = characters / max(characters, len(completion.text))
    return min(max(1, round(share * completion.output_tokens)), completion.output_tokens)
