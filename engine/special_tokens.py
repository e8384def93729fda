"""Special tokens typed by a user stay text: the guard around what a chat template is given, and the encoder after it.

`guard` breaks every control token inside the user's strings with a secret mark, and the ends of strings that a template
could join into one. In the rendered text an unbroken control token is therefore the template's own. `encode` turns
those into their ids and everything between them into plain text, in which a private tokenizer that does not know any
control token finds none.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer

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
        self._mark = _secret_mark()
        self._ids = {token.content: index for index, token in control.items()}
        self._splitter = re.compile("|".join(map(_spelling, _longest_first(control.values()))) or "(?!)")
        self._plain = _without(tokenizer, self._ids, self._mark)
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
        ids: list[int] = []
        end = 0
        for match in self._splitter.finditer(rendered):
            ids += self._encode_text(rendered[end : match.start()])
            ids.append(self._id_of(match[0]))
            end = match.end()
        return ids + self._encode_text(rendered[end:])

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of plain text as the tokenizer begins any text, with no control token found in it."""
        return list(self._plain.encode(text, add_special_tokens=True).ids)

    def _encode_text(self, text: str) -> list[int]:
        text = text.replace(self._mark, "")
        return list(self._plain.encode(text, add_special_tokens=False).ids) if text else []

    def _id_of(self, spelling: str) -> int:
        found = self._ids.get(spelling)
        return self._ids[spelling.strip()] if found is None else found


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


def _secret_mark() -> str:
    """Return four random private-use characters: nobody can type what nobody knows, so no text has to be refused."""
    return "".join(chr(0xF0000 + secrets.randbelow(0xFFFE)) for _ in range(4))


def _longest_first(tokens: Iterable[AddedToken]) -> list[AddedToken]:
    return sorted(tokens, key=lambda token: -len(token.content))


def _spelling(token: AddedToken) -> str:
    """Return the pattern of one token, with the white space that its flags make it swallow."""
    return (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")


def _without(tokenizer: Tokenizer, control: Mapping[str, int], mark: str) -> Tokenizer:
    """Return a copy of the tokenizer that does not know the control tokens; every other id stays what it was.

    Ids of added tokens are given out in order, so a control token is renamed to something nobody can type, not taken
    out; one that the model's own vocabulary holds too is taken out, because its name already has its id.
    """
    state = json.loads(tokenizer.to_str())
    words = state["model"]["vocab"]
    state["added_tokens"] = [
        token | {"content": f"{mark}{token['id']}{mark}"} if token["content"] in control else token
        for token in state["added_tokens"]
        if not (token["content"] in control and token["content"] in words)
    ]
    plain = Tokenizer.from_str(json.dumps(state))
    plain.no_truncation()
    plain.no_padding()
    return plain
