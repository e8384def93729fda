"""A loaded model's tokens as they are shown, for grammars to match against."""

from __future__ import annotations

import logging
from dataclasses import replace

from engine.loading.loader import LoadedModel
from engine.text.grammar import index_of
from engine.types import Vocabulary

log = logging.getLogger("avito_ai.loading")

# How SentencePiece spells a byte and a space.
BYTE, SPACE = b"<0x", "\u2581".encode()


def vocabulary_of(loaded: LoadedModel) -> Vocabulary | None:
    """Return the tokens of a loaded model, indexed for grammars; None for a vocabulary that no grammar can follow.

    To be called before the model is ready: the index takes a second that streams would feel.
    """
    vocabulary = tokens_of(loaded)
    try:
        return replace(vocabulary, index=index_of(vocabulary))
    except Exception:  # the library refuses what it does not foresee; the model itself is none the worse
        log.exception("The model's vocabulary cannot be indexed: schemas and forced calls will be refused.")
        return None


def tokens_of(loaded: LoadedModel) -> Vocabulary:
    """Return the tokens of a loaded model. What a marker shows is what the text that clients see is made of."""
    table = loaded.token_table
    tokens = table.pieces
    if table.cleans:
        tokens = [table.text(number).encode() if _is_marker(token) else token for number, token in enumerate(tokens)]
    return Vocabulary(tuple(tokens), loaded.eos_token_ids, loaded.preparer.encode)


def _is_marker(token: bytes) -> bool:
    return token.startswith(BYTE) or SPACE in token
