"""What a request used, as it is recorded, priced and counted under its account: before its last byte is sent.

A request that no model has taken used nothing, and is not recorded. Tokens of an answer that failed, or whose client
has left, count as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from config import MILLION
from edge.request_state import request_state
from engine.backend import Generation
from engine.types import ChatPrompt, Prompt, Spent
from routes.services import services
from usage.record import UsageRecord

ABORTED = "request_aborted"
SETTLING_SECONDS = 5.0  # until what an aborted answer took is taken as it is known then


class Meter:
    """Records what answers to the current request use. Made in its context, and used by any thread.

    model: its name; served_id: under which it is recorded.
    """

    def __init__(self, model: str, served_id: str) -> None:
        self._state, self._services = request_state(), services()
        self._model, self._served_id = model, served_id

    def defer(self, settle: Callable[[], bool]) -> None:
        """Have `settle` called until it returns true, by the thread that stores usage."""
        self._services.usage.defer(settle)

    def write(self, request_id: str, spent: Spent, images: int = 0, failure: str = "") -> float | None:
        """Record what was used, and return what it cost; None without prices. Never raises.

        failure: the code of the error that it ended with.
        """
        state, parts = self._state, self._services
        protocol = state.row.protocol if state.row is not None else None
        cost = parts.spending.budgets.prices.of(self._model).cost(
            spent.prompt_tokens, spent.output_tokens, spent.cached_tokens
        )
        position = parts.usage.record(
            UsageRecord(
                request_id=request_id,
                at=time.time(),
                account=state.account.id,
                name=state.account.name,
                model=self._served_id,
                protocol="" if protocol is None else protocol.value,
                input_tokens=spent.prompt_tokens,
                output_tokens=spent.output_tokens,
                cached_tokens=spent.cached_tokens,
                images=images,
                milliseconds=round(spent.seconds * 1000),
                cost=cost,
                user=state.user,
                failure=failure,
            )
        )
        parts.spending.budgets.count(state.account.id, position, spent.prompt_tokens + spent.output_tokens, cost)
        parts.metrics.spent(self._model, cost)
        account, tokens = state.account, spent.prompt_tokens + spent.output_tokens
        parts.metrics.busiest.spend(account.id, account.name or account.id, tokens)
        if not failure:
            parts.rated_answers.add(account.id, request_id, self._model)
        if not parts.spending.budgets.prices:
            return None
        state.cost = (state.cost or 0) + cost
        return cost / MILLION


class RunMeter:
    """Records the answers of one run together, once. Used by one thread at a time.

    prompts: of each answer; those that are the same object count once. cost: of all that was recorded, in the
    operator's currency; None before, and without prices.
    """

    def __init__(self, meter: Meter, request_id: str, prompts: Sequence[Prompt]) -> None:
        self._meter, self._request_id = meter, request_id
        self._firsts = {id(prompt): number for number, prompt in reversed(list(enumerate(prompts)))}.values()
        self._images = [len(prompt.images) if isinstance(prompt, ChatPrompt) else 0 for prompt in prompts]
        self._left = set(range(len(prompts)))
        self._written = self._waits = False
        self.failure = ""
        self.cost: float | None = None

    def answered(self, number: int, generations: Sequence[Generation]) -> None:
        """Note that an answer has ended well; with the last one, record them all."""
        self._left.discard(number)
        if not self._left and not self.failure:
            self._write(generations, "")

    def close(self, generations: Sequence[Generation], counted: Callable[[], None]) -> None:
        """Record what answers used that did not all end well, as soon as they have ended; call `counted` then."""
        if self._waits:
            return
        failure = self.failure or ABORTED
        if self._written or all(generation.done for generation in generations):
            try:
                if generations:
                    self._write(generations, failure)
            finally:
                counted()
            return
        self._written = self._waits = True
        until = time.monotonic() + SETTLING_SECONDS
        waiting = list(generations)

        def settle() -> bool:
            if not all(generation.done for generation in waiting) and time.monotonic() < until:
                return False
            try:
                self._add_up(waiting, failure)
            finally:
                counted()
            return True

        self._meter.defer(settle)

    def _write(self, generations: Sequence[Generation], failure: str) -> None:
        if not self._written:
            self._written = True
            self._add_up(generations, failure)

    def _add_up(self, generations: Sequence[Generation], failure: str) -> None:
        spent = [generation.spent for generation in generations]
        firsts = [number for number in self._firsts if number < len(spent)]
        total = Spent(
            sum(spent[number].prompt_tokens for number in firsts),
            sum(one.output_tokens for one in spent),
            sum(spent[number].cached_tokens for number in firsts),
            sum(one.seconds for one in spent),
        )
        images = sum(self._images[number] for number in firsts if spent[number].prompt_tokens)
        self.cost = self._meter.write(self._request_id, total, images, failure)
