"""Reads the masks of grammars as an engine does that has time."""

from __future__ import annotations

from typing import Any

from engine.text.grammar import GrammarMask


def bitmask_of(mask: GrammarMask) -> Any:
    """Return the tokens allowed next, however long they take."""
    words = mask.bitmask()
    while mask.late:
        words = mask.bitmask()
    return words
