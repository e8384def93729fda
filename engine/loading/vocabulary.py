"""The tokens of a loaded model as clients see them, indexed for grammars."""

from __future__ import annotations

import logging
from dataclasses import replace

from engine.loading.loader import LoadedModel
from engine.text.grammar import index_of
from engine.types import Vocabulary

log = logging.getLogger("avito_ai.loading")


def vocabulary_of(loaded: LoadedModel) -> Vocabulary | None:
    """Return the tokens of a loaded model, indexed for grammars; None if llguidance cannot index them.

    Called before the model is ready: the index takes about a second, which would delay running streams.
    """
    vocabulary = tokens_of(loaded)
    try:
        return replace(vocabulary, index=index_of(vocabulary))
    except Exception:  # llguidance rejects unusual vocabularies; the model works without grammars
        log.exception("The vocabulary of the model cannot be indexed: schemas and forced calls will be refused.")
        return None


def tokens_of(loaded: LoadedModel) -> Vocabulary:
    """Return the tokens of a loaded model, as clients see them in an answer that follows a grammar."""
    return Vocabulary(tuple(loaded.token_table.literal.pieces), loaded.eos_token_ids, loaded.preparer.encode)
