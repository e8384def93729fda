"""Special tokens typed by a user stay text: the guard around what a chat template is given, and the encoder after it.

`guard` breaks every control token inside the user's strings with a secret mark, and the ends of strings that a template
could join into one. In the rendered text an unbroken control token is therefore the template's own. `encode` replaces
those by secret names and has the whole text tokenized by a private copy of the tokenizer that knows its control tokens
by these names only: everything else is the tokenizer's own work, and what a user typed is text to it.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

_BRACKETED = re.compile(r"<[^<>\s]+>")


class SpecialTokens:
    """The control tokens of one tokenizer. Safe to use from many threads.

    Control tokens are the added tokens that are marked special, look like `<...>`, or are written out in `template`.
    Other added tokens are ordinary words of the vocabulary. All objects of the tokenizer are private copies.
    """

    def __init__(self, tokenizer: Tokenizer, template: str = "") -> None:
        control = {
            index: token
            for index, token in tokenizer.get_added_tokens_decoder().items()
            if token.special or _BRACKETED.fullmatch(token.content) or token.content in template
        }
        self._mark = _secret()
        self._ids = {token.content: index for index, token in control.items()}
        self._names = {content: f"{_secret()}{index}" for content, index in self._ids.items()}
        self._finder = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))) or "(?!)")
        self._private = _renamed(tokenizer, self._names)
        self._strict = _Guard(self._ids, self._mark)
        self._lenient = _Guard([token.content for token in control.values() if token.special], self._mark)

    @property
    def ids(self) -> Mapping[str, int]:
        """Return the control tokens and their ids."""
        return self._ids

    def guard(self, value: Any, own: bool = False) -> Any:
        """Return a copy of JSON-like `value` whose strings, keys included, can write no control token.

        own: the value is the model's own earlier turn, in which tokens that are not marked special (a tool call, a
        reasoning block) are what the model wrote, and remain tokens.
        """
        guard = self._lenient if own else self._strict
        if isinstance(value, str):
            return guard(value)
        if isinstance(value, Mapping):
            return {guard(key): self.guard(item, own) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.guard(item, own) for item in value]
        return value

    def encode(self, rendered: str) -> list[int]:
        """Return the ids of a rendered conversation whose inputs went through `guard`."""
        named = self._finder.sub(lambda match: self._names[match[0]], rendered)
        return list(self._private.encode(named.replace(self._mark, ""), add_special_tokens=False).ids)

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of plain text as the tokenizer begins any text, with no control token found in it."""
        return list(self._private.encode(text, add_special_tokens=True).ids)


class _Guard:
    """Breaks the given tokens in one string, and its ends where another string could complete a token."""

    def __init__(self, tokens: Iterable[str], mark: str) -> None:
        tokens = list(tokens)
        self._mark = mark
        self._whole = re.compile(f"(?=(?:{'|'.join(map(re.escape, tokens)) or '(?!)'}))(.)", re.DOTALL)
        self._heads = tuple({token[:length] for token in tokens for length in range(1, len(token))})
        self._tails = tuple({token[length:] for token in tokens for length in range(1, len(token))})

    def __call__(self, text: str) -> str:
        text = self._whole.sub(lambda match: match[1] + self._mark, text)
        before = self._mark if text.startswith(self._tails) else ""
        after = self._mark if text.endswith(self._heads) else ""
        return before + text + after


def _secret() -> str:
    """Return four random private-use characters: nobody can type what nobody knows, so no text has to be refused."""
    return "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(4))


def _renamed(tokenizer: Tokenizer, names: Mapping[str, str]) -> Tokenizer:
    """Return a copy of the tokenizer that knows each control token by its secret name only; every id stays."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    words = state["model"]["vocab"]
    if isinstance(words, dict):  # a trained tokenizer holds its special tokens in the vocabulary as well
        state["model"]["vocab"] = {names.get(word, word): index for word, index in words.items()}
    private = Tokenizer.from_str(json.dumps(state))
    private.no_truncation()
    private.no_padding()
    return private
