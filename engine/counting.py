"""Prompts that are tokenized for their own sake, and tokens whose text is asked for: how many at once, so that they
take little from what is generated.

They work in their callers' threads and share no lock with the engine.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import Overloaded, ValidationError
from engine.text.prompt_size import check_prompt_size
from engine.types import Prompt, Spelled
from engine.wanted import Wanted

if TYPE_CHECKING:
    from engine.loading.loader import LoadedModel

AT_WORK = 2  # prompts; each takes milliseconds of a core, which decoding on the processor wants too
PRESENT = 32  # at work and waiting for it
RETRY_AFTER = 1  # second


class CountingRoom:
    """At most PRESENT prompts at once, half of them of one client; AT_WORK of them are tokenized, the others wait."""

    def __init__(self) -> None:
        self._at_work = threading.Semaphore(AT_WORK)
        self._lock = threading.Lock()  # guards the field below
        self._present: Counter[str] = Counter()

    def tokenize(self, loaded: LoadedModel, prompt: Prompt, wanted: Wanted) -> list[int]:
        """Return the ids of a prompt. Raises Overloaded, ValidationError or a subclass, and as `wanted` does."""
        check_prompt_size(prompt, loaded.max_model_len)
        with self._entered(wanted.client), self._at_work:
            return loaded.preparer.tokenize(prompt, wanted)

    def detokenize(self, loaded: LoadedModel, token_ids: Sequence[int], wanted: Wanted) -> Spelled:
        """Return the text of token ids, at most as many as the context has. Raises as `tokenize` does."""
        if len(token_ids) > loaded.max_model_len:
            raise ValidationError(f"At most {loaded.max_model_len} token ids can be sent.", "tokens")
        if any(not 0 <= token_id < loaded.vocab_size for token_id in token_ids):
            raise ValidationError(f"Token ids must be from 0 to {loaded.vocab_size - 1}.", "tokens")
        with self._entered(wanted.client), self._at_work:
            wanted.check()
            return loaded.spelling.spelled(token_ids)

    @contextmanager
    def _entered(self, client: str) -> Iterator[None]:
        with self._lock:
            if self._present.total() >= PRESENT or self._present[client] >= PRESENT // 2:
                raise Overloaded("Too many prompts are being counted; try again later.", RETRY_AFTER)
            self._present[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._present -= Counter([client])
