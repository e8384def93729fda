"""Grammars: masks of the allowed next tokens, so that an answer follows a JSON schema or a Lark grammar.

They are matched by llguidance. It was chosen over xgrammar, which depends on apache-tvm-ffi and, on Linux, Triton, and
over outlines-core, which builds the whole automaton of a schema first: that takes seconds for some small schemas.
llguidance has one wheel for Python 3.9 and later and no dependencies; it is lazy, so a grammar is ready after about a
millisecond; it releases the GIL; and it counts its own work, so even a malicious grammar takes no longer in a step than
LIMITS allow.

Grammars are compiled and warmed up in threads of this module, never in the engine's thread, which only requests the
next mask; a thread of this module starts to compute it when the previous token is accepted.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from engine.errors import Overloaded, ValidationError
from engine.types import Vocabulary
from engine.wanted import Wanted

COMPILE_SECONDS = 5.0
COMPILE_THREADS = 2
WAITING_COMPILES = 32
CACHED_GRAMMARS = 128
MASK_THREADS = 4
NICENESS = 10

# About 10 ms of work in a step, and one second before the first step.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


class GrammarFailed(Exception):
    """A grammar exceeded its limits, or got a token that it does not allow, during an answer."""


class GrammarMask:
    """The `TokenMask` of one answer. Used by the engine's thread only; masks are computed in the thread pool."""

    def __init__(self, matcher: LLMatcher, words: int, pool: ThreadPoolExecutor) -> None:
        self._matcher, self._words, self._pool = matcher, words, pool
        self._next: Future[NDArray[np.int32]] | None = None

    def bitmask(self) -> NDArray[np.int32]:
        """Return the tokens allowed next, packed into int32 words. Raises GrammarFailed."""
        if self._next is None:
            self._next = self._pool.submit(self._compute)
        return self._next.result()

    def accept(self, token_id: int) -> None:
        """Advance by one token. Raises GrammarFailed."""
        if self._next is not None:
            self._next.result()  # a matcher must not be used concurrently
        if not self._matcher.consume_token(token_id):
            raise GrammarFailed
        self._next = None if self._matcher.is_stopped() else self._pool.submit(self._compute)

    def _compute(self) -> NDArray[np.int32]:
        mask = np.zeros(self._words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise GrammarFailed
        return mask


class Grammars:
    """The grammars of one model. Thread-safe; not for the engine's thread, which must not wait for a compilation.

    seconds: how long a request waits for a new grammar; most_waiting: limit of concurrent compilations.
    """

    def __init__(
        self, vocabulary: Vocabulary, seconds: float = COMPILE_SECONDS, most_waiting: int = WAITING_COMPILES
    ) -> None:
        self._vocabulary, self._seconds, self._most_waiting = vocabulary, seconds, most_waiting
        self._words = (len(vocabulary.tokens) + 31) // 32
        self._compilers = ThreadPoolExecutor(COMPILE_THREADS, "grammar", initializer=_lower_priority)
        self._maskers = ThreadPoolExecutor(MASK_THREADS, "grammar-mask")
        self._tokenizer: LLTokenizer | None = vocabulary.index
        self._tokenizer_lock = threading.Lock()  # guards the creation of `_tokenizer` if the vocabulary has no index
        self._lock = threading.Lock()  # guards the two fields below
        self._ready: OrderedDict[str, LLMatcher] = OrderedDict()
        self._compiling = 0

    def mask(self, grammar: str, wanted: Wanted | None = None) -> GrammarMask:
        """Return a new mask. grammar: from `json_grammar` or `lark_grammar`; wanted: ends the wait for a new one.

        Raises ValidationError for a grammar that is invalid, too large, or not compiled in time, and Overloaded if too
        many compile already. Neither names a field; the message is a predicate whose subject the caller adds.
        """
        with self._lock:
            matcher = self._ready.get(grammar)
            if matcher is not None:
                self._ready.move_to_end(grammar)
        if matcher is None:
            matcher = self._compiled(grammar, wanted or Wanted())
        return GrammarMask(matcher.deep_copy(), self._words, self._maskers)

    @property
    def cached(self) -> int:
        """The number of cached grammars."""
        with self._lock:
            return len(self._ready)

    def close(self) -> None:
        """Shut down the threads."""
        for pool in (self._compilers, self._maskers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _compiled(self, grammar: str, wanted: Wanted) -> LLMatcher:
        with self._lock:
            if self._compiling >= self._most_waiting:
                raise Overloaded("Too many new schemas at once; try again later.", 1)
            self._compiling += 1
        future = self._compilers.submit(self._compile, grammar)
        future.add_done_callback(self._compiled_one)
        try:
            matcher = _result(future, self._seconds, wanted)
        except BaseException:
            future.cancel()
            raise
        with self._lock:
            self._ready[grammar] = matcher
            while len(self._ready) > CACHED_GRAMMARS:
                self._ready.popitem(last=False)
        return matcher

    def _compiled_one(self, _: Future[LLMatcher]) -> None:
        with self._lock:
            self._compiling -= 1

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            # Fills the cache of the matcher, so that no answer waits for its first mask.
            scratch = np.zeros(self._words, dtype=np.int32)
            matcher.unsafe_compute_mask_ptr(scratch.ctypes.data, scratch.nbytes)
        if matcher.is_error():
            raise ValidationError(_reason(matcher.get_error()))
        return matcher

    def _tokens(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = index_of(self._vocabulary)
            return self._tokenizer


class _Tokens:
    """A vocabulary as llguidance reads it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = min(vocabulary.eos_token_ids)
        self.special_token_ids = [number for number, token in enumerate(vocabulary.tokens) if not token]
        # A special token needs a unique name that no text contains.
        self.tokens = [token or b"<|%d|>" % number for number, token in enumerate(vocabulary.tokens)]
        self._encode = vocabulary.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _result(future: Future[LLMatcher], seconds: float, wanted: Wanted) -> LLMatcher:
    """Wait for a compilation. Raises ValidationError after `seconds`, and as `wanted` does."""
    future.add_done_callback(lambda _: wanted.changed.set())
    until = time.monotonic() + seconds
    while not future.done():
        left = until - time.monotonic()
        if left <= 0:
            raise ValidationError(TOO_COMPLEX)
        wanted.wait(left)
    return future.result()


def json_grammar(schema: str) -> str:
    """Return the grammar of a JSON schema, with fixed white space. Raises ValidationError."""
    try:
        return str(LLMatcher.grammar_from_json_schema(schema, overrides=JSON_STYLE))
    except ValueError as error:
        raise ValidationError("cannot be read") from error


def lark_grammar(lark: str) -> str:
    """Return the grammar of a text in llguidance's Lark dialect."""
    return str(LLMatcher.grammar_from_lark(lark))


# The usual style of JSON. With flexible white space a model can generate white space without end.
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
TOO_COMPLEX = "is too complex"


def index_of(vocabulary: Vocabulary) -> LLTokenizer:
    """Index a vocabulary for matching; takes about a second for 150,000 tokens and holds the GIL."""
    tokens: Any = _Tokens(vocabulary)
    return LLTokenizer(
        tokens,
        n_vocab=len(vocabulary.tokens),
        eos_token=sorted(vocabulary.eos_token_ids),
        slices=LLTokenizer.json_slices(),
    )


def _reason(message: str) -> str:
    """Return our own wording of an llguidance error, without any text of the schema except names of keywords."""
    _, found, keys = message.partition("Unimplemented keys: ")
    if found:
        names = [name.strip(' "') for name in keys.partition("]")[0].strip("[").split(",")]
        return f"uses what cannot be enforced: {', '.join(name for name in names if name.isidentifier())}"
    limits = ("limit", "too complex", "too large", "Too many", "fuel", "max is")
    return TOO_COMPLEX if any(word in message for word in limits) else "cannot be enforced"


def _lower_priority() -> None:
    """Lower the priority of this thread, so that the engine's thread runs first on a shared core."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
