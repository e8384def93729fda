"""The log probabilities of one answer's tokens, each with its text as soon as that is known."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from engine.model.choice import Choice
from engine.text.detokenizer import TokenTable
from engine.text.token_texts import TokenText, TokenTexts
from engine.types import TokenLogprob


class _Waiting(NamedTuple):
    """A token whose text is not known yet. top, top_data: of `TokenLogprob`; both are made when the token comes."""

    choice: Choice
    top: tuple[tuple[int, str, float], ...]
    top_data: tuple[bytes, ...]


class TokenLogprobs:
    """Used by the engine's thread."""

    def __init__(self, table: TokenTable) -> None:
        self._table, self._texts = table, TokenTexts(table)
        self._waiting: deque[_Waiting] = deque()

    def add(self, choice: Choice) -> list[TokenLogprob]:
        """Add the next token; return those that are known now."""
        top_data = tuple(self._table.data(token_id) for token_id, _ in choice.top)
        top = tuple(
            (token_id, data.decode("utf-8", "replace"), value)
            for (token_id, value), data in zip(choice.top, top_data, strict=True)
        )
        self._waiting.append(_Waiting(choice, top, top_data))
        return self._known(self._texts.add(choice.token_id))

    def flush(self) -> list[TokenLogprob]:
        """Return the rest at the end of the answer."""
        return self._known(self._texts.flush())

    def _known(self, texts: list[TokenText]) -> list[TokenLogprob]:
        return [self._shown(self._waiting.popleft(), text) for text in texts]

    def _shown(self, waiting: _Waiting, text: TokenText) -> TokenLogprob:
        choice = waiting.choice
        assert choice.logprob is not None
        return TokenLogprob(
            token_id=choice.token_id,
            token=text.data.decode("utf-8", "replace"),
            logprob=choice.logprob,
            top=waiting.top,
            data=text.data,
            top_data=waiting.top_data,
            offset=text.offset,
        )
