"""The turn of a request, of which a test wants to know when it is held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge import turns


class HeldTurn:
    """Stands for an `edge.turns.Turn` that is always given at once. held: whether the request has it now."""

    held = True

    def leave(self) -> None:
        """Leave it."""
        self.held = False

    def take(self, at_most: float = 0.0) -> None:
        """Take it again."""
        self.held = True


@contextmanager
def held_turn() -> Iterator[HeldTurn]:
    """Yield the turn of every request that is made meanwhile."""
    turn = HeldTurn()
    token = turns._turn.set(turn)  # type: ignore[arg-type]
    try:
        yield turn
    finally:
        turns._turn.reset(token)
