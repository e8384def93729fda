"""The latest answers that can still be rated, by account and request id. Thread-safe and of bounded size."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

MAX_ANSWERS = 10_000
DIGEST_BYTES = 16


class RatedAnswers:
    """Knows the model that gave each answer, and whether it was rated; an account knows its own answers alone."""

    def __init__(self, capacity: int = MAX_ANSWERS) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()  # guards the fields below
        # By a digest of account and request id, a fifth of the memory of both.
        self._answers: OrderedDict[bytes, tuple[str, bool]] = OrderedDict()
        self._known: dict[tuple[str, bool], tuple[str, bool]] = {}  # each once, whatever it is known of

    def add(self, account: str, request_id: str, model: str) -> None:
        """Note an answer."""
        key, unrated = _key(account, request_id), (model, False)
        with self._lock:
            self._answers[key] = self._known.setdefault(unrated, unrated)
            self._answers.move_to_end(key)
            while len(self._answers) > self._capacity:
                self._answers.popitem(last=False)

    def rate(self, account: str, request_id: str) -> tuple[str, bool] | None:
        """Note that an answer is rated: return its model and whether that is new; None if unknown."""
        key = _key(account, request_id)
        with self._lock:
            model, rated = self._answers.get(key, ("", False))
            if not model:
                return None
            self._answers[key] = self._known.setdefault((model, True), (model, True))
            return model, not rated


def _key(account: str, request_id: str) -> bytes:
    """Return what stands for an answer; the length keeps one account from writing another's."""
    text = f"{len(account)} {account} {request_id}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
