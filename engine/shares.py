"""How much one of many may hold of what all share, so that it keeps nobody out.

As much as it holds has to stay free beside it: alone it may have half of all, a second one half of the rest. That is
the dynamic threshold of shared-buffer switches (Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998).
"""

from __future__ import annotations


def within_share(held: int, more: int, free: int) -> bool:
    """Return whether one that holds so much may take more of what is free."""
    return held + more <= free - more


def most_alone(free: int) -> int:
    """Return how much of what is free one may take step by step, by `within_share`, where no other holds any."""
    return free // 2


def left_of_share(held: int, free: int) -> int:
    """Return how much more of what is free may be taken by all that count as one, and hold so much together.

    As `within_share` has it for each step; whoever of them holds something leaves as much of this to the others.
    """
    return (free - held) // 2 if held else free
