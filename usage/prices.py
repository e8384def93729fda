"""What tokens cost. Money is a whole number of millionths of the operator's currency wherever it is added or kept.

An answer's cost is rounded once, to the nearest millionth and a half upwards; every sum is one of rounded answers, so
that metrics, headers, usage and budgets agree to the last digit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from config import MARK, MILLION, as_money

__all__ = ["FREE", "Price", "Prices", "as_money"]


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens of a model cost, in millionths; cached: of prompt tokens found in a cache."""

    input: int = 0
    output: int = 0
    cached: int = 0

    def cost(self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
        """Return the cost of an answer in millionths. cached_tokens: how many of the prompt's tokens were cached."""
        new = (prompt_tokens - cached_tokens) * self.input
        return (new + cached_tokens * self.cached + output_tokens * self.output + MILLION // 2) // MILLION

    def most(self, prompt_tokens: int, output_tokens: int) -> int:
        """Return the most that an answer of this size can cost, in millionths."""
        return max(self.cost(prompt_tokens, output_tokens), self.cost(prompt_tokens, output_tokens, prompt_tokens))


FREE = Price()


class Prices:
    """The prices of all models.

    by_name: input, output and cached, by the name of a model or the full name of a version; full_names: what each
    stands for, as the default version of a model stands for it.
    """

    def __init__(
        self, by_name: Mapping[str, tuple[int, int, int]] | None, full_names: Mapping[str, str] | None = None
    ) -> None:
        self._by_model = {name: Price(*figures) for name, figures in (by_name or {}).items()}
        versions = {name: price for name, price in self._by_model.items() if MARK in name}
        self._by_version = {(full_names or {}).get(name, name): price for name, price in versions.items()}

    def __bool__(self) -> bool:
        """True where anything has a price."""
        return any(price != FREE for price in self._by_model.values())

    def of(self, model: str) -> Price:
        """Return the price of a model or a version; a version without one of its own has its model's."""
        return self._by_version.get(model) or self._by_model.get(model.partition(MARK)[0], FREE)
