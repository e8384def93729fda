"""Grammars: which tokens may come next, so that an answer has the form that was asked for.

Matched by llguidance. It was chosen over xgrammar, which brings apache-tvm-ffi and, on Linux, Triton beside torch, and
over outlines-core, which makes a whole automaton of a schema first: that takes seconds for some small schemas.
llguidance has one wheel for Python 3.9 and later and needs no other package; it works lazily, so that a grammar is
ready after about a millisecond; it works outside the GIL; and it counts its own work, so that no grammar, however
unkind, takes longer in a step than LIMITS allow.

A grammar is made and warmed in threads of this module, never in the engine's; the engine's thread only asks for the
next mask, which a thread of this module has begun to compute when the last token was accepted.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from engine.errors import Overloaded, ValidationError
from engine.types import Vocabulary

COMPILE_SECONDS = 5.0
COMPILE_THREADS = 2
WAITING_COMPILES = 32
CACHED_GRAMMARS = 128
MASK_THREADS = 4
NICENESS = 10

# About a hundredth of a second of work in a step, and a second before the first one.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


class GrammarFailed(Exception):
    """A grammar met its limits, or a token that it does not allow, in the middle of an answer."""


class GrammarMask:
    """The `TokenMask` of one answer. Used by the engine's thread alone; the next mask is computed beside it."""

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
            self._next.result()  # a matcher does one thing at a time
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
    """The grammars of one model. Safe to use from any thread but the engine's, which must not wait for a compile.

    seconds: how long a request waits for a new grammar; most_waiting: how many may be in the making at once.
    """

    def __init__(
        self, vocabulary: Vocabulary, seconds: float = COMPILE_SECONDS, most_waiting: int = WAITING_COMPILES
    ) -> None:
        self._vocabulary, self._seconds, self._most_waiting = vocabulary, seconds, most_waiting
        self._words = (len(vocabulary.tokens) + 31) // 32
        self._compilers = ThreadPoolExecutor(COMPILE_THREADS, "grammar", initializer=_stand_back)
        self._maskers = ThreadPoolExecutor(MASK_THREADS, "grammar-mask")
        self._tokenizer: LLTokenizer | None = vocabulary.index
        self._tokenizer_lock = threading.Lock()  # guards its making, where the model came without one
        self._lock = threading.Lock()  # guards the two fields below
        self._ready: OrderedDict[str, LLMatcher] = OrderedDict()
        self._compiling = 0

    def mask(self, grammar: str) -> GrammarMask:
        """Return a fresh mask. grammar: as `json_grammar` or `lark_grammar` made it.

        Raises ValidationError for a grammar that is wrong, too large, or not ready in time; Overloaded where too many
        wait already. Neither names a field; the message completes "... asks for".
        """
        with self._lock:
            matcher = self._ready.get(grammar)
            if matcher is not None:
                self._ready.move_to_end(grammar)
        if matcher is None:
            matcher = self._compiled(grammar)
        return GrammarMask(matcher.deep_copy(), self._words, self._maskers)

    @property
    def cached(self) -> int:
        """How many grammars are kept ready."""
        with self._lock:
            return len(self._ready)

    def close(self) -> None:
        """End the threads."""
        for pool in (self._compilers, self._maskers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _compiled(self, grammar: str) -> LLMatcher:
        with self._lock:
            if self._compiling >= self._most_waiting:
                raise Overloaded("Too many new schemas at once; try again later.", 1)
            self._compiling += 1
        future = self._compilers.submit(self._compile, grammar)
        future.add_done_callback(self._count_out)
        try:
            matcher = future.result(self._seconds)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise ValidationError(TOO_COMPLEX) from None
        with self._lock:
            self._ready[grammar] = matcher
            while len(self._ready) > CACHED_GRAMMARS:
                self._ready.popitem(last=False)
        return matcher

    def _count_out(self, _: Future[LLMatcher]) -> None:
        with self._lock:
            self._compiling -= 1

    def _compile(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            # Into the grammar's own memory, so that no answer has to wait for its first mask.
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
        # A special token needs a name of its own; no text is spelled with it.
        self.tokens = [token or b"<|%d|>" % number for number, token in enumerate(vocabulary.tokens)]
        self._encode = vocabulary.encode

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def json_grammar(schema: str) -> str:
    """Return the grammar of a JSON schema, without blanks that are not needed. Raises ValidationError."""
    try:
        return str(LLMatcher.grammar_from_json_schema(schema, overrides=JSON_STYLE))
    except ValueError as error:
        raise ValidationError("cannot be read") from error


def lark_grammar(lark: str) -> str:
    """Return the grammar of a text in llguidance's dialect of Lark."""
    return str(LLMatcher.grammar_from_lark(lark))


# As JSON is mostly written. With blanks left open, a model can go on making blanks for ever.
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
TOO_COMPLEX = "is too complex"


def index_of(vocabulary: Vocabulary) -> LLTokenizer:
    """Return the vocabulary as it is matched against: for 150,000 tokens about a second's work, with the GIL held."""
    tokens: Any = _Tokens(vocabulary)
    return LLTokenizer(
        tokens,
        n_vocab=len(vocabulary.tokens),
        eos_token=sorted(vocabulary.eos_token_ids),
        slices=LLTokenizer.json_slices(),
    )


def _reason(told: str) -> str:
    """Return our own words for what the library found, without any of the schema's text but keywords' names."""
    _, found, keys = told.partition("Unimplemented keys: ")
    if found:
        names = [name.strip(' "') for name in keys.partition("]")[0].strip("[").split(",")]
        return f"uses what cannot be enforced: {', '.join(name for name in names if name.isidentifier())}"
    limits = ("limit", "too complex", "too large", "Too many", "fuel", "max is")
    return TOO_COMPLEX if any(word in told for word in limits) else "cannot be enforced"


def _stand_back() -> None:
    """Let the engine go first where this thread and it want the same processor."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
