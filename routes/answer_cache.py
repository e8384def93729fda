"""Whole answers to deterministic requests, kept for the account that asked, to be given again without the model.

A kept answer is shown as the model gave it, part by part. Its counts of tokens are those of the model's; all tokens of
its prompt count as cached, and its timings are zero: nothing was computed.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from engine.backend import Generation
from engine.types import Completion, Echo, Piece, Timings, TokenLogprob
from telemetry.metrics.prometheus import CacheFigures

KEPT_SECONDS = 3600.0
# Upper limits of what Python keeps, in bytes; a test compares them with the objects.
ENTRY_BYTES, ANSWER_BYTES, PIECE_BYTES, TOKEN_ID_BYTES = 1024, 1024, 256, 48
LOGPROB_BYTES, ALTERNATIVE_BYTES, DATA_FACTOR = 512, 384, 4


@dataclass(frozen=True, slots=True)
class KeptEcho:
    """The echo of a prompt, see `engine.types.Echo`, as values."""

    text: str
    logprobs: list[TokenLogprob]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """One answer. pieces: its parts as they came; max_tokens, prompt_token_ids: of its `Generation`."""

    completion: Completion
    pieces: tuple[Piece, ...]
    max_tokens: int
    prompt_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, generation: Generation, completion: Completion, seen: Sequence[Piece]) -> KeptAnswer:
        """Return an answer to keep. seen: its parts, () if it was read as a whole."""
        whole = Piece(completion.text, completion.token_ids, completion.logprobs, completion.echo)
        echo = completion.echo and KeptEcho(completion.echo.text, completion.echo.logprobs)
        pieces = tuple(piece._replace(echo=piece.echo and echo) for piece in seen or [whole])
        return cls(replace(completion, echo=echo), pieces, generation.max_tokens, generation.prompt_token_ids)

    def generation(self, request_id: str) -> Generation:
        """Return this answer as a generation that has ended."""
        found = self.completion
        generation = Generation(
            request_id,
            found.prompt_tokens,
            math.inf,
            on_abort=lambda: None,
            max_tokens=self.max_tokens,
            prompt_token_ids=self.prompt_token_ids,
        )
        for piece in self.pieces:
            generation.push(piece)
        first_token = None if found.timings.first_token is None else 0.0
        timings = Timings(0.0, first_token, 0.0)
        generation.finish(replace(found, timings=timings, cached_tokens=found.prompt_tokens, from_cache=True))
        return generation

    @property
    def size(self) -> int:
        """Upper limit of its bytes. What the parts have in common with the whole counts once."""
        completion, alone = self.completion, len(self.pieces) == 1
        texts = [completion.text, *("" if alone else piece.text for piece in self.pieces)]
        ids = len(self.prompt_token_ids) + len(completion.token_ids) * (1 if alone else 2)
        ids += len(completion.token_offsets)
        echo = 0 if completion.echo is None else _echo_bytes(completion.echo)
        return (
            ANSWER_BYTES
            + sum(map(sys.getsizeof, texts))
            + len(self.pieces) * PIECE_BYTES
            + ids * TOKEN_ID_BYTES
            + sum(map(_logprob_bytes, completion.logprobs))
            + echo
        )


Kept = tuple[KeptAnswer, ...]


class AnswerCache:
    """The answers of many requests, by key; the least recently used go first. Thread-safe.

    limit: bytes of all answers, 0 keeps none; seconds: how long one is kept at most; clock: seconds, monotonic.
    """

    def __init__(self, limit: int, seconds: float = KEPT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._seconds, self._clock = limit, seconds, clock
        self._lock = threading.Lock()  # guards the fields below
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # the least recently used first
        self._ends: OrderedDict[bytes, float] = OrderedDict()  # when each is dropped, the soonest first
        self._size = self._hits = self._misses = 0

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._limit > 0

    def find(self, key: bytes) -> Kept | None:
        """Return the answers of a request, None if they are not kept; counted as a hit or a miss."""
        with self._lock:
            self._expire()
            entry = self._entries.get(key)
            if entry is None:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return entry.answers

    def keep(self, key: bytes, answers: Kept) -> None:
        """Keep the answers of a request, unless they are larger than the whole cache may be."""
        size = ENTRY_BYTES + sum(answer.size for answer in answers)
        if size > self._limit:
            return
        with self._lock:
            self._drop(key)
            self._entries[key] = _Entry(answers, size)
            self._ends[key] = self._clock() + self._seconds
            self._size += size
            while self._size > self._limit:
                self._drop(next(iter(self._entries)))

    def figures(self) -> CacheFigures:
        """Return what is kept, and what was asked for."""
        with self._lock:
            self._expire()
            return CacheFigures(len(self._entries), self._size, self._hits, self._misses)

    def _expire(self) -> None:
        now = self._clock()
        while self._ends and next(iter(self._ends.values())) <= now:
            self._drop(next(iter(self._ends)))

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.size
            del self._ends[key]


class Keeping:
    """Collects the answers to one request, and keeps them once all have ended well. Used by the request's thread.

    number: how many there are.
    """

    def __init__(self, cache: AnswerCache, key: bytes, number: int) -> None:
        self._cache, self._key = cache, key
        self._seen: list[list[Piece]] = [[] for _ in range(number)]
        self._ended: dict[int, KeptAnswer] = {}

    def noted(self, pieces: Iterator[tuple[int, Piece | None]]) -> Iterator[tuple[int, Piece | None]]:
        """Yield the parts of the answers, as `Run.pieces` does, and remember them."""
        for number, piece in pieces:
            if piece is not None and (piece.text or piece.token_ids or piece.echo):
                self._seen[number].append(piece)
            yield number, piece

    def ended(self, number: int, generation: Generation, completion: Completion) -> None:
        """Take a finished answer; the last one lets all be found."""
        self._ended[number] = KeptAnswer.of(generation, completion, self._seen[number])
        if len(self._ended) == len(self._seen):
            self._cache.keep(self._key, tuple(self._ended[index] for index in sorted(self._ended)))


@dataclass(frozen=True, slots=True)
class _Entry:
    """The answers of a request, and their bytes."""

    answers: Kept
    size: int


def _echo_bytes(echo: Echo) -> int:
    return sys.getsizeof(echo.text) + sum(map(_logprob_bytes, echo.logprobs))


def _logprob_bytes(token: TokenLogprob) -> int:
    """Return the bytes of a token and its alternatives; each text is kept as characters and as bytes."""
    texts = len(token.token) + sum(len(text) for _, text, _ in token.top)
    return LOGPROB_BYTES + len(token.top) * ALTERNATIVE_BYTES + texts * 2 * DATA_FACTOR
