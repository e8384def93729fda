"""The account that a request is charged to: of a client key, of a token, or of an address where no key is needed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may use; None where nothing of its own is set. Money is in millionths of the currency.

    Days and months are those of UTC. 0 requests per minute or per hour: unlimited; 0 of anything else: none.
    """

    requests_per_minute: int | None = None
    requests_per_hour: int | None = None
    concurrent_requests: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    money_per_day: int | None = None
    money_per_month: int | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Who a request belongs to.

    id: what limits, fairness, cached prefixes, stored responses and usage are kept under: `key:<id of the key>`,
    `jwt:<subject>`, or the address that the caller is charged under. name: what logs and pages show, "" for an address.
    models: those it may use, None for all.
    """

    id: str
    name: str = ""
    limits: Limits = field(default_factory=Limits)
    models: frozenset[str] | None = None
    priority: str = "normal"

    def may_use(self, *names: str) -> bool:
        """Return whether the account may use the model that has these names; one that is allowed is enough."""
        return self.models is None or not self.models.isdisjoint(names)


@lru_cache(4096)
def of_address(budget_key: str) -> Account:
    """Return the account of an address, under which every caller without a key is charged."""
    return Account(budget_key)
