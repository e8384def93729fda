"""Grammars: masks of the allowed next tokens, so that an answer follows a JSON schema or a Lark grammar.

They are matched by llguidance. It was chosen over xgrammar, which depends on apache-tvm-ffi and, on Linux, Triton, and
over outlines-core, which builds the whole automaton of a schema first: that takes seconds for some small schemas.
llguidance has one wheel for Python 3.9 and later and no dependencies; it is lazy, so a grammar is ready after about a
millisecond; it releases the GIL for masks; and it counts its own work, which bounds the memory that a malicious grammar
takes. What its masks take in time is counted here, and an answer whose masks take too much of it fails. The copies of a
matcher share a lock, which accepting a token waits for with the GIL held: one of ours stands in front of it.

New grammars are tried in processes of their own first (`grammar_trials`), where one that never ends is killed.
Grammars are compiled and warmed up in the threads of a `CompileQueue`, never in the engine's thread, which only
requests the next mask; a thread of a `MaskPool` computes it while the next step runs. A step that comes too early for
a mask goes on without it: the token of its row is chosen again in a later one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from engine.cores import CORES, Cores
from engine.errors import ValidationError
from engine.text.compile_queue import CompileQueue
from engine.text.grammar_limits import FUEL, MORE_MAY_HELP, TOO_COMPLEX, TRIED_ANSWERS, TRIED_TOKENS, fault, limits_of
from engine.text.grammar_limits import reason as reason_of
from engine.text.grammar_trials import NoTrials, Trials
from engine.text.mask_pool import MaskPool
from engine.text.schema.multiples import remainders_in
from engine.types import Vocabulary
from engine.wanted import Wanted

COMPILE_SECONDS = 5.0
CACHED_GRAMMARS = 128
LARGEST_PART = 2  # of so many of the cache: what is larger is not kept, or it would drop all others
CACHED_BYTES = 64 * 2**20  # of the compiled grammars of one model, as `size_of` estimates them
# Processor time of the masks of one answer: so much, and so much more for each token.
BURST_SECONDS, TOKEN_SECONDS = 1.0, 0.01
# Of one mask, beyond which a step does not wait for the next one of its row; and of a trial.
SLOW_SECONDS = 0.01
LATE_SECONDS = 0.03  # since it was asked for, beyond which a step does not wait for a mask
BYTES_PER_FUEL, BYTES_PER_CHARACTER = 110, 170  # see `grammar_limits.FUEL`
BYTES_PER_REMAINDER = 230  # measured too; the library follows those of `multipleOf` beside its fuel


def size_of(grammar: str, fuel: int) -> int:
    """Return how many bytes a compiled grammar takes at most. fuel: what it was compiled with."""
    of_remainders = remainders_in(grammar) * BYTES_PER_REMAINDER
    return len(grammar) * BYTES_PER_CHARACTER + fuel * BYTES_PER_FUEL + of_remainders


class GrammarFailed(ValidationError):
    """A grammar exceeded its limits, or left no token to go on with, during an answer."""


class GrammarRefused(ValidationError):
    """A grammar does not compile. The message is a predicate; place: of its mistake, None if that is not known."""

    def __init__(self, message: str, place: str | None = None) -> None:
        super().__init__(message)
        self.place = place


class GrammarMask:
    """The `TokenMask` of one answer. Used by the engine's thread only; masks are computed in the thread pool.

    shared: held while the library is at work for one of the copies of a matcher, which else wait for each other and
    keep the interpreter lock meanwhile. field: of the request, which an answer that fails is blamed on; grammar: what
    it follows; clock: seconds of processor time of the thread that asks; wall: seconds, of which others that compute
    take their part.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        words: int,
        pool: MaskPool[NDArray[np.int32]],
        field: str,
        shared: threading.Lock,
        grammar: str = "",
        clock: Callable[[], float] = time.thread_time,
        wall: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._matcher, self._words, self._pool, self._field = matcher, words, pool, field
        self._shared = shared
        self.grammar, self._clock, self._wall = grammar, clock, wall
        self._next: Future[NDArray[np.int32]] | None = None
        self._spent = self._last = 0.0  # seconds that all masks took, and the last one
        self._late, self._late_at = False, 0.0
        self._waited = self._accepting = 0.0  # seconds until the last mask was there, and that the last token took
        self._may_spend = BURST_SECONDS

    @property
    def json(self) -> bool:
        """Whether a whole answer is JSON."""
        return self.grammar.startswith(OF_JSON)

    @property
    def ready(self) -> bool:
        """Whether the next mask is there, or is likely to be by the time that a step needs it."""
        if self._next is not None and not self._next.done():
            return self.quick
        return not (self._late and self._shared.locked())

    @property
    def quick(self) -> bool:
        """Whether the mask after a token that is not accepted yet is likely to be there by the time a step needs it."""
        return self._last <= SLOW_SECONDS and not self._late

    @property
    def late(self) -> bool:
        """Whether the last step came too early: before the mask was there, or while a copy's was computed."""
        return self._late

    @property
    def step_seconds(self) -> float:
        """By how many seconds the answer is likely to lengthen a step: of its next mask, and of accepting its token."""
        there = self._next is None or self._next.done()
        return self._accepting + (0.0 if there else self._waited)

    @property
    def usual_seconds(self) -> float:
        """The same where the token before that mask is not accepted yet."""
        return self._accepting + self._waited

    @property
    def spent(self) -> float:
        """The seconds of processor time that all its masks took, and accepting its tokens."""
        return self._spent

    def bitmask(self) -> NDArray[np.int32]:
        """Return the tokens allowed next, packed into int32 words.

        All tokens once the grammar has failed: the step is that of other answers too, and `accept` raises. All tokens
        too where a mask takes long after quick ones: the row is `late` then, and `accept` takes no token.
        """
        if self._next is None:
            self._next = self._submit()
        try:
            mask, self._late = self._next.result(max(0.0, self._late_at - self._wall())), False
        except FutureTimeout:
            mask, self._late = np.full(self._words, -1, dtype=np.int32), True
        return mask

    def accept(self, token_id: int) -> bool:
        """Advance by one token; False where the mask was not there, or the library is at work for a copy for long.

        Raises GrammarFailed.
        """
        if self._late:
            return False
        if self._next is not None:
            self._next.result()  # a matcher must not be used concurrently
        if not self._shared.acquire(timeout=max(0.0, self._late_at - self._wall())):
            self._late = True
            return False
        try:
            # A matcher in error accepts an end token, though the answer is not complete.
            exhausted = self._spent > self._may_spend
            if exhausted or self._matcher.is_error() or not self._consumed(token_id) or self._matcher.is_error():
                raise GrammarFailed(f"{self._field} {TOO_COMPLEX}.", self._field)
        finally:
            self._shared.release()
        self._may_spend += TOKEN_SECONDS
        self._next = None
        return True

    def prepare(self) -> None:
        """Have the next mask computed."""
        if self._next is None and not self._matcher.is_stopped():
            self._next = self._submit()

    def _consumed(self, token_id: int) -> bool:
        began, at = self._clock(), self._wall()
        consumed = self._matcher.consume_token(token_id)
        self._spent += self._clock() - began
        self._accepting = self._wall() - at
        return consumed

    def _submit(self) -> Future[NDArray[np.int32]]:
        self._late_at = self._wall() + LATE_SECONDS
        return self._pool.submit(self._compute, self._spent, self._last > SLOW_SECONDS, self._shared)

    def _compute(self) -> NDArray[np.int32]:
        began, at = self._clock(), self._wall()
        mask = _mask_of(self._matcher, self._words)
        self._last, self._waited = self._clock() - began, self._wall() - at
        self._spent += self._last
        return np.full_like(mask, -1) if self._matcher.is_error() or not mask.any() else mask


class Grammars:
    """The grammars of one model. Thread-safe; not for the engine's thread, which must not wait for a compilation.

    seconds: how long a request waits for a new grammar; trials: of new grammars, before they are compiled here;
    compilers: where they are, which several models may share; cores: where a long compilation is counted.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        seconds: float = COMPILE_SECONDS,
        trials: Trials | None = None,
        compilers: CompileQueue | None = None,
        cores: Cores = CORES,
    ) -> None:
        self._trials, self._cores = trials or NoTrials(), cores
        self._vocabulary, self._seconds = vocabulary, seconds
        self._words = (len(vocabulary.tokens) + 31) // 32
        self._compilers = compilers or CompileQueue()
        self._maskers: MaskPool[NDArray[np.int32]] = MaskPool()
        self._tokenizer: LLTokenizer | None = vocabulary.index
        self._tokenizer_lock = threading.Lock()  # guards the creation of `_tokenizer` if the vocabulary has no index
        self._lock = threading.Lock()  # guards the two fields below
        self._ready: OrderedDict[tuple[str, str], _Compiled] = OrderedDict()  # by owner and grammar
        self._bytes = 0

    def mask(
        self, grammar: str, wanted: Wanted | None = None, field: str = "response_format", owner: str = ""
    ) -> GrammarMask:
        """Return a new mask of a grammar; see `masks`."""
        return self.masks(grammar, wanted, field, owner)()

    def masks(
        self, grammar: str, wanted: Wanted | None = None, field: str = "response_format", owner: str = ""
    ) -> Callable[[], GrammarMask]:
        """Return what makes new masks of a grammar, which is compiled once, also where it is too large to be kept.

        grammar: from `json_grammar` or `lark_grammar`; wanted: for whom a new one is compiled, and what ends the wait
        for it; field: of the request, which an answer that fails is blamed on. owner: who may find the compiled grammar
        again, so that the time of a request does not tell what schemas others have sent.

        Raises ValidationError for a grammar that is invalid, too large, or not compiled in time, and Overloaded if too
        many compile already, of all clients or of this one. Neither names a field; the message is a predicate whose
        subject the caller adds.
        """
        with self._lock:
            compiled = self._ready.get((owner, grammar))
            if compiled is not None:
                self._ready.move_to_end((owner, grammar))
        ready = compiled or self._compiled(grammar, wanted or Wanted(), owner)
        return lambda: GrammarMask(ready.matcher.deep_copy(), self._words, self._maskers, field, ready.shared, grammar)

    @property
    def cached(self) -> int:
        """The number of cached grammars."""
        with self._lock:
            return len(self._ready)

    @property
    def cached_bytes(self) -> int:
        """The size of the cached grammars, as `size_of` estimates it; at most CACHED_BYTES."""
        with self._lock:
            return self._bytes

    def close(self) -> None:
        """Shut down the threads, of the compilers too."""
        self._compilers.close()
        self._maskers.close()

    def _compiled(self, grammar: str, wanted: Wanted, owner: str) -> _Compiled:
        compiled = self._compilers.done(partial(self._compile, grammar), wanted, self._seconds)
        self._keep((owner, grammar), compiled)
        return compiled

    def _keep(self, key: tuple[str, str], compiled: _Compiled) -> None:
        with self._lock:
            if key in self._ready or compiled.size > CACHED_BYTES // LARGEST_PART:
                return
            self._ready[key] = compiled
            self._bytes += compiled.size
            while len(self._ready) > CACHED_GRAMMARS or self._bytes > CACHED_BYTES:
                self._bytes -= self._ready.popitem(last=False)[1].size

    def _compile(self, grammar: str) -> _Compiled:
        """Compile with as little as is enough, which bounds the size of what is kept. Raises as `mask` does."""
        began = time.perf_counter() - self._cores.waited
        self._trials.check(grammar, self._seconds)
        slow = time.perf_counter() - self._cores.waited - began > SLOW_SECONDS  # so it is here, too
        with self._cores.job() if slow else nullcontext():
            compiled = self._attempted(grammar)
        if isinstance(compiled, str):
            raise GrammarRefused(compiled, fault(grammar))
        return compiled

    def _attempted(self, grammar: str) -> _Compiled | str:
        """Return the compiled grammar, or why there is none.

        Nothing is raised from here: the error would keep the 22 MB of a matcher that failed until it is collected.
        """
        reason = ""
        for fuel in FUEL:
            matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=limits_of(fuel, grammar))
            if not matcher.is_error():
                _mask_of(matcher, self._words)  # kept by the matcher, so that no answer waits for its first one
            reason = reason_of(matcher.get_error()) if matcher.is_error() else ""
            if not reason:
                failure = self._tried(matcher)
                reason = "" if failure is None else TOO_COMPLEX
                if MORE_MAY_HELP not in (failure or ""):
                    break
            elif reason != TOO_COMPLEX:
                break
        return reason or _Compiled(matcher, size_of(grammar, fuel))

    def _tried(self, matcher: LLMatcher) -> str | None:
        """Return why the start of some answer exceeds the limits; None if none does."""
        for share in TRIED_ANSWERS:
            failure = self._failure(matcher.deep_copy(), share)
            if failure is not None:
                return failure
        return None

    def _failure(self, matcher: LLMatcher, share: float) -> str | None:
        """Return why the start of an answer fails. share: which of the allowed tokens to take."""
        for _ in range(TRIED_TOKENS):
            mask = _mask_of(matcher, self._words)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if matcher.is_error() or not len(allowed):
                return matcher.get_error()
            if matcher.is_stopped() or not matcher.consume_token(int(allowed[int(share * (len(allowed) - 1))])):
                break
        return matcher.get_error() if matcher.is_error() else None

    def _tokens(self) -> LLTokenizer:
        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = index_of(self._vocabulary)
            return self._tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    """A compiled grammar, to be copied for each answer. size: in bytes, at most; shared: see `GrammarMask`."""

    matcher: LLMatcher
    size: int
    shared: threading.Lock = field(default_factory=threading.Lock)


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


def _mask_of(matcher: LLMatcher, words: int) -> NDArray[np.int32]:
    """Return the tokens allowed next, packed into int32 words; what a matcher in error returns means nothing."""
    mask = np.zeros(words, dtype=np.int32)
    matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
    return mask


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
OF_JSON = json_grammar("{}").partition(":")[0]  # the beginning of a grammar of JSON alone


def index_of(vocabulary: Vocabulary) -> LLTokenizer:
    """Index a vocabulary for matching; takes about a second for 150,000 tokens and holds the GIL."""
    tokens: Any = _Tokens(vocabulary)
    return LLTokenizer(
        tokens,
        n_vocab=len(vocabulary.tokens),
        eos_token=sorted(vocabulary.eos_token_ids),
        slices=LLTokenizer.json_slices(),
    )
