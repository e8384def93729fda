"""What one admitted request is for the other copies of the service, and how it is kept up to date with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol
from uuid import uuid4

from engine.errors import RetryLater
from keys.account import Limits
from usage.errors import HeldBack

PAUSE = 0.02  # seconds between two questions while others' prompts are tokenized


@dataclass(frozen=True, slots=True)
class SharedRequest:
    """A request: what it holds back, whether it runs, and whether the size of a prompt of it is unknown."""

    id: str
    tokens: int = 0
    running: bool = True
    unsized: bool = False


class Everywhere(Protocol):
    """What all copies of the service have together; see `edge.shared_limits`."""

    def admit(self, account: str, request: SharedRequest, before: int, limits: Limits) -> RetryLater | None: ...
    def tell(self, account: str, request: SharedRequest) -> None: ...
    def count(self, account: str, tokens: int) -> None: ...


@lru_cache(4096)
def is_shared(limits: Limits) -> bool:
    """Return whether a limit is set that all copies hold together."""
    return limits.concurrent_requests is not None or limits.tokens_per_minute is not None


class Share:
    """One request of this copy, as the others know it. Used by one thread at a time. elsewhere: as of `Totals`."""

    def __init__(
        self,
        everywhere: Everywhere,
        account: str,
        limits: Limits,
        patience: float,
        elsewhere: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._everywhere, self._account, self._limits, self._patience = everywhere, account, limits, patience
        self._elsewhere = elsewhere
        self._told = SharedRequest(uuid4().hex, running=False)

    def agree(self, tokens: int, unsized: bool) -> None:
        """Hold so many tokens back in all. Raises what the other copies' requests leave no room for."""
        wanted, until = self._shown(tokens, True, unsized), time.monotonic() + self._patience
        with self._elsewhere():
            while (found := self._everywhere.admit(self._account, wanted, self._told.tokens, self._limits)) is not None:
                if not isinstance(found, HeldBack) or not found.unsized or time.monotonic() >= until:
                    raise found
                time.sleep(PAUSE)
        self._told = wanted

    def tell(self, tokens: int, running: bool, unsized: bool) -> None:
        """Tell the other copies what has changed for them."""
        now = self._shown(tokens, running, unsized)
        if now != self._told:
            self._told = now
            with self._elsewhere():
                self._everywhere.tell(self._account, now)

    def _shown(self, tokens: int, running: bool, unsized: bool) -> SharedRequest:
        """Return the request as far as its limits depend on it."""
        counts = self._limits.tokens_per_minute is not None
        return replace(self._told, tokens=tokens if counts else 0, running=running, unsized=unsized and counts)
