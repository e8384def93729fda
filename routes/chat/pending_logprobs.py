"""The log probabilities of an answer's tokens, until it is known what is shown of their text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from engine.types import TokenLogprob


class PendingLogprobs:
    """Those of one answer, in the order of their texts: handed out by where these stand, whatever came at once."""

    def __init__(self) -> None:
        self._tokens: deque[TokenLogprob] = deque()
        self._end = 0  # of the text whose tokens were taken last

    def add(self, tokens: Iterable[TokenLogprob]) -> None:
        """Add the next ones."""
        self._tokens += tokens

    def take(self, span: range) -> tuple[list[TokenLogprob], list[TokenLogprob]]:
        """Take those up to the end of a text; return those in front of it, such as a tag's, and its own.

        Its own are all that have a character of it. What a token with a part of a character adds is known late: where
        it stands in the text before, it belongs to that, and so to this one.
        """
        before: list[TokenLogprob] = []
        own: list[TokenLogprob] = []
        for one in self.take_until(span.stop):
            apart = self._end <= one.offset < span.start and one.offset + len(one.token) <= span.start
            (before if apart else own).append(one)
        self._end = span.stop
        return before, own

    def take_until(self, position: float) -> list[TokenLogprob]:
        """Take those that begin before a position of the text."""
        taken = []
        while self._tokens and self._tokens[0].offset < position:
            taken.append(self._tokens.popleft())
        return taken
