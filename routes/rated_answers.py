"""The latest answers that can still be rated, by account and request id. Thread-safe and of bounded size."""

from __future__ import annotations

import threading
from collections import OrderedDict

MAX_ANSWERS = 10_000


class RatedAnswers:
    """Knows the model that gave each answer, and whether it was rated; an account knows its own answers alone."""

    def __init__(self, capacity: int = MAX_ANSWERS) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()  # guards the field below
        self._answers: OrderedDict[tuple[str, str], tuple[str, bool]] = OrderedDict()

    def add(self, account: str, request_id: str, model: str) -> None:
        """Note an answer."""
        with self._lock:
            self._answers[account, request_id] = (model, False)
            self._answers.move_to_end((account, request_id))
            while len(self._answers) > self._capacity:
                self._answers.popitem(last=False)

    def rate(self, account: str, request_id: str) -> tuple[str, bool] | None:
        """Note that an answer is rated: return its model and whether that is new; None if unknown."""
        with self._lock:
            model, rated = self._answers.get((account, request_id), ("", False))
            if not model:
                return None
            self._answers[account, request_id] = (model, True)
            return model, not rated
