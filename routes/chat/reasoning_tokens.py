"""Counts the tokens of an answer that are reasoning, the same in every protocol."""

from __future__ import annotations

from routes.chat.output import OutputParser
from routes.chat.parts import Part, Reasoning


class ReasoningTokens:
    """Those of one answer: of the pieces that have reasoning, or a tag of it. total: so far."""

    def __init__(self) -> None:
        self.total = 0

    def feed(self, parser: OutputParser, text: str, tokens: int) -> list[Part]:
        """Have a piece of the answer parsed, and count it. tokens: how many it has."""
        before = parser.reasons
        parts = parser.feed(text)
        if before or parser.reasons or any(isinstance(part, Reasoning) for part in parts):
            self.total += tokens
        return parts
