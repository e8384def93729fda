"""A prompt as it is shown with its answer: its text, and the log probabilities of its tokens.

Made in the thread of whoever asks for it: for a long prompt it takes longer than a step of the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.model.choice import Choice
from engine.text.spelling import Spelling
from engine.text.token_texts import TokenText
from engine.types import TokenLogprob


@dataclass(frozen=True, slots=True, eq=False)
class PromptEcho:
    """See `engine.types.Echo`. scores: of the tokens from the second on, None where they are not asked for."""

    spelling: Spelling
    token_ids: tuple[int, ...]
    scores: tuple[Choice, ...] | None = None

    @property
    def text(self) -> str:
        return self.spelling.spelled(self.token_ids).text

    @property
    def logprobs(self) -> list[TokenLogprob]:
        if self.scores is None:
            return []
        first = Choice(self.token_ids[0], True, 0.0)
        texts = self.spelling.texts(self.token_ids)
        return [self._shown(*one) for one in zip((first, *self.scores), texts, strict=True)]

    def _shown(self, score: Choice, text: TokenText) -> TokenLogprob:
        top_data = tuple(self.spelling.table.data(token_id) for token_id, _ in score.top)
        alternatives = zip(score.top, top_data, strict=True)
        return TokenLogprob(
            token_id=score.token_id,
            token=text.data.decode("utf-8", "replace"),
            logprob=score.logprob or 0.0,
            top=tuple((token_id, data.decode("utf-8", "replace"), value) for (token_id, value), data in alternatives),
            data=text.data,
            top_data=top_data,
            offset=text.offset,
        )
