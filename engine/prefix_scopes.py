"""Whose cached prefixes a sequence may reuse, so that no client can find out what another one asked.

A client reuses what it has sent itself. Beyond that, every client may reuse what the operator has made public: the
prompt heads that the chat template itself writes, a system prompt in it included.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from engine.errors import ServiceError
from engine.schedule.block_pool import BLOCK, PrefixScope
from engine.types import ChatPrompt

if TYPE_CHECKING:
    from engine.text.prompt import PromptPreparer


class PrefixScopes:
    """Gives sequences their scopes in the prefix cache. Immutable.

    sharing: `client` for prefixes within a client, `all` for prefixes of everybody, `none` for no reuse but that of a
    preempted sequence's own tokens. public: token ids that prompts of every client may begin with.
    """

    def __init__(self, sharing: str = "client", public: Iterable[Sequence[int]] = ()) -> None:
        self._sharing = sharing
        whole = (list(head[: len(head) // BLOCK * BLOCK]) for head in public)
        self._public = sorted((head for head in whole if head), key=len, reverse=True)

    def of(self, client: str, token_ids: list[int]) -> PrefixScope:
        """Return the scope of one sequence of a client, with this prompt."""
        if self._sharing == "all":
            return PrefixScope()
        if self._sharing == "none":
            return PrefixScope(object(), kept=False)
        return PrefixScope(client, self._public_tokens(token_ids))

    def _public_tokens(self, token_ids: list[int]) -> int:
        """Return how many tokens the prompt has in common with a public head, in whole blocks."""
        return max((_common(head, token_ids) // BLOCK * BLOCK for head in self._public), default=0)


def constant_heads(preparer: PromptPreparer, system: str = "") -> list[list[int]]:
    """Return the token ids that conversations begin with whatever their first message says, with and without tools.

    system: the operator's system prompt; conversations with it have a head of their own.
    """
    heads = []
    kinds: list[tuple[str, Sequence[str]]] = [("", ()), ("", ("a", "b")), *([(system, ())] if system else [])]
    for instructions, tools in kinds:
        prompts = [_conversation(text, instructions, tools[number : number + 1]) for number, text in enumerate("ab")]
        try:
            first, second = (preparer.prepare(prompt).token_ids for prompt in prompts)
        except ServiceError:  # a template without tools, or a system prompt that does not fit
            continue
        heads.append(first[: _common(first, second)])
    return heads


def _conversation(text: str, system: str, tools: Sequence[str]) -> ChatPrompt:
    functions = ({"type": "function", "function": {"name": name, "parameters": {}}} for name in tools)
    messages = ({"role": "system", "content": system},) if system else ()
    return ChatPrompt((*messages, {"role": "user", "content": text}), tools=tuple(functions))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
