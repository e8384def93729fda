"""Finds tokens that the text of a sequence probably continues with: those that followed the same tokens before."""

from __future__ import annotations

from array import array

GRAM = 3  # tokens that must have occurred before
WIDTH = array("i").itemsize
MEMORY = 0.9  # weight of the past with each draft that was verified
PRIOR = 1.0, 2.0  # drafts that were right, and all, that a new sequence is assumed to have had


class Drafter:
    """Proposes drafts for one sequence, and learns how many of them are right. The engine's thread only."""

    def __init__(self) -> None:
        self._text = bytearray()  # the tokens as int32, for the search
        self._right, self._verified = PRIOR
        self.chance = self._right / self._verified  # estimated, that a draft is right if the ones before it are
        self.tried_at = 0  # number of tokens when the last draft was verified

    def propose(self, token_ids: list[int], most: int) -> list[int]:
        """Return at most `most` tokens that may follow, none where the last ones have not occurred before."""
        self._text += array("i", token_ids[len(self._text) // WIDTH :]).tobytes()
        start = self._after_latest(GRAM)
        if start is None:
            return []
        period = len(token_ids) - start  # a text that repeats itself is continued beyond its end
        return [token_ids[start + place % period] for place in range(most)]

    def learn(self, drafted: int, right: int, size: int) -> None:
        """Learn that the first `right` of the `drafted` tokens were right. size: of the sequence by then."""
        verified = min(drafted, right + 1)
        fade = MEMORY**verified
        self._right = self._right * fade + right
        self._verified = self._verified * fade + verified
        self.chance = self._right / self._verified
        self.tried_at = size

    def _after_latest(self, gram: int) -> int | None:
        """Return where the text goes on after its last `gram` tokens the latest time before its end."""
        text, end = self._text, len(self._text)
        tail = bytes(text[-gram * WIDTH :])
        while (found := text.rfind(tail, 0, end - 1)) >= 0:
            if found % WIDTH == 0:
                return found // WIDTH + gram
            end = found + len(tail)
        return None
