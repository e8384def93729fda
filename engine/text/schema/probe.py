"""Questions about strings, answered by the grammar library itself over a vocabulary of single bytes.

Its matching takes time in proportion to the text, whatever the pattern, and a fixed limit of work for each pattern.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from functools import cache
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

FUEL = 20_000
END = 0
TRIED = 40  # bytes of a string
SHARES = (0.35, 1.0)  # which of the allowed bytes is taken


class Satisfiability(Enum):
    """What the library says of the strings of a schema."""

    FINE = "fine"
    EMPTY = "empty"
    COMPLEX = "complex"
    UNKNOWN = "unknown syntax"


def satisfiability(schema: dict[str, Any]) -> Satisfiability:
    """Return whether strings of a schema can be generated, and if not, why. schema: as the library takes it."""
    matcher = _matcher(schema)
    if not matcher.is_error():
        matcher.compute_bitmask()
    return _satisfiability(matcher)


def tried(schema: dict[str, Any]) -> Satisfiability:
    """Return the same after the start of a few strings: some patterns are harder with each character."""
    first = _matcher(schema)
    for share in SHARES:
        matcher = first.deep_copy()
        for _ in range(TRIED):
            if matcher.is_error() or matcher.is_stopped():
                break
            take_token(matcher, share)
        if matcher.is_error():
            return _satisfiability(matcher)
    return Satisfiability.FINE


def take_token(matcher: LLMatcher, share: float) -> None:
    """Go on with one of the allowed bytes. share: which of them, 0 to 1."""
    mask = int.from_bytes(matcher.compute_bitmask(), "little")
    chosen = int(share * (mask.bit_count() - 1))
    while chosen > 0:  # leave the lowest of the allowed bytes out, as often as that
        mask, chosen = mask & (mask - 1), chosen - 1
    if mask:
        matcher.consume_token((mask & -mask).bit_length() - 1)


def _satisfiability(matcher: LLMatcher) -> Satisfiability:
    if not matcher.is_error():
        return Satisfiability.FINE
    message = matcher.get_error().lower()
    if "unsatisfiable" in message:
        return Satisfiability.EMPTY
    unread = "parse error" in message or "not supported" in message
    return Satisfiability.UNKNOWN if unread else Satisfiability.COMPLEX


def matches(pattern: str, text: str) -> bool | None:
    """Return whether a text has a match of a pattern, which is in the library's syntax; None if that is too hard."""
    data = json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")
    matcher = _matcher({"type": "string", "pattern": pattern})
    taken = 0 if matcher.is_error() else matcher.try_consume_tokens(list(data))
    if matcher.is_error():
        return False if _satisfiability(matcher) is Satisfiability.EMPTY else None
    return taken == len(data) and matcher.is_accepting()


def has_names(pattern: str, listed: Iterable[str]) -> bool | None:
    """Return whether the library offers names of a pattern beside the listed ones; None if that is too hard.

    It passes over listed names there, and offers a comma for another one nevertheless.
    """
    schema = {
        "type": "object",
        "properties": dict.fromkeys(listed, False),
        "patternProperties": {pattern: {"type": "null"}},
        "additionalProperties": False,
        "minProperties": 1,
    }
    matcher = _matcher(schema)
    taken = 0 if matcher.is_error() else matcher.try_consume_tokens(list(b'{"'))
    return None if matcher.is_error() else taken == 2


class _Bytes:
    """A vocabulary of the 256 bytes, the first of which ends a text."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = END
    special_token_ids = (END,)
    tokens = (b"<|0|>", *(bytes([byte]) for byte in range(1, 256)))

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@cache
def byte_tokenizer() -> LLTokenizer:
    """Return the 256 bytes as the library reads a vocabulary."""
    wrapper: Any = _Bytes()
    return LLTokenizer(wrapper, n_vocab=256, eos_token=[END])


def _matcher(schema: dict[str, Any]) -> LLMatcher:
    limits = LLParserLimits(
        initial_lexer_fuel=FUEL,
        step_lexer_fuel=100_000,
        max_lexer_states=20_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )
    return LLMatcher(
        byte_tokenizer(), LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0, limits=limits
    )
