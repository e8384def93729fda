"""How token ids read that are shown as such, in prompts and in answers: control tokens by their names.

Each token reads as it does alone (`TokenTable.literal`), so that the tokens of a user's text give that text also where
several of them together spell a marker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from engine.text.detokenizer import TokenTable
from engine.text.token_texts import TokenText, TokenTexts
from engine.types import Spelled

SPACE = b" "


class Spelling:
    """The texts of the tokens of one model. Thread-safe.

    table: the model's; control: the tokens without a text there, by their names.
    """

    def __init__(self, table: TokenTable, control: Mapping[str, int]) -> None:
        pieces = list(table.literal.pieces)
        for name, token_id in control.items():
            pieces[token_id] = pieces[token_id] or name.encode()
        self.table = TokenTable(pieces, cleans=False)
        self._strips = table.strips

    def spelled(self, token_ids: Sequence[int]) -> Spelled:
        """Return the text of token ids of the vocabulary."""
        pieces = [self.table.pieces[token_id] for token_id in token_ids]
        return Spelled(self._stripped(b"".join(pieces)).decode("utf-8", "replace"), tuple(map(name_of, pieces)))

    def texts(self, token_ids: Iterable[int]) -> list[TokenText]:
        """Return what each token adds to the text, and where."""
        texts = TokenTexts(self.table)
        found = [text for token_id in token_ids for text in texts.add(token_id)] + texts.flush()
        if found and (first := self._stripped(found[0].data)) != found[0].data:
            found = [TokenText(first, 0), *(TokenText(text.data, text.offset - 1) for text in found[1:])]
        return found

    def _stripped(self, data: bytes) -> bytes:
        return data.removeprefix(SPACE) if self._strips else data


def name_of(data: bytes) -> str:
    """Return the text of a token alone, for a part of a character its bytes as OpenAI spells them."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
