"""A loaded model's tokens as they are shown, for grammars to match against."""

from __future__ import annotations

from engine.loader import LoadedModel
from engine.types import Vocabulary

# How SentencePiece spells a byte and a space.
BYTE, SPACE = b"<0x", "\u2581".encode()


def vocabulary_of(loaded: LoadedModel) -> Vocabulary:
    """Return the tokens of a loaded model. What a marker shows is what the text that clients see is made of."""
    table = loaded.token_table
    tokens = table.pieces
    if table.cleans:
        tokens = [table.text(number).encode() if _is_marker(token) else token for number, token in enumerate(tokens)]
    return Vocabulary(tuple(tokens), loaded.eos_token_ids, loaded.preparer.encode)


def _is_marker(token: bytes) -> bool:
    return token.startswith(BYTE) or SPACE in token
