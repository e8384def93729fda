"""Prefix sharing: what one client asked, no other can find out, and what the template writes is everybody's."""

import pytest

from engine.prefix_scopes import PrefixScopes, constant_heads
from engine.schedule.block_pool import BLOCK, BlockPool, PrefixScope, blocks_for
from engine.text.prompt import PreparedPrompt
from engine.types import ChatPrompt

HEAD = list(range(100, 100 + 2 * BLOCK + 3))
MEMO = list(range(4 * BLOCK))


def cached(pool, scope, ids):
    """Start a prompt, compute it and end it, as the engine does; return how many of its tokens were found."""
    found = pool.find(ids, scope)
    blocks = found + pool.allocate(blocks_for(len(ids)) - len(found))
    pool.release(pool.register(blocks, ids, scope))
    return len(found) * BLOCK


def asked(scopes, clients, ids):
    """Return how many tokens each of these clients finds, who send the same prompt one after another."""
    pool = BlockPool(100)
    return [cached(pool, scopes.of(client, ids), ids) for client in clients]


def test_a_client_finds_its_own_prefixes_only():
    """The same memo of another client is computed again, and each finds its own from then on."""
    assert asked(PrefixScopes("client"), "ababc", [*MEMO, 999]) == [0, 0, len(MEMO), len(MEMO), 0]


def test_all_clients_share_where_the_operator_says_so():
    """With `all`, what one client sent is found by every other."""
    assert asked(PrefixScopes("all"), "ab", [*MEMO, 999]) == [0, len(MEMO)]


def test_nothing_is_reused_with_none():
    """With `none`, a client does not find its own prompt either, and nothing is kept for it."""
    scopes = PrefixScopes("none")
    assert asked(scopes, "aa", [*MEMO, 999]) == [0, 0]
    assert not scopes.of("a", MEMO).kept


@pytest.mark.parametrize("sharing", ["client", "none", "all"])
def test_a_sequence_finds_its_own_tokens_again(sharing):
    """A preempted sequence resumes from its own prefix, whatever is shared."""
    pool, scope = BlockPool(100), PrefixScopes(sharing).of("a", MEMO)
    assert [cached(pool, scope, ids) for ids in (MEMO, [*MEMO, 999])] == [0, len(MEMO)]


def test_public_heads_are_shared_in_whole_blocks():
    """Another client finds the head, and nothing of what follows it, the rest of the head's last block included."""
    scopes = PrefixScopes("client", [HEAD])
    assert asked(scopes, "aba", [*HEAD, *MEMO]) == [0, 2 * BLOCK, (len(HEAD) + len(MEMO) - 1) // BLOCK * BLOCK]
    assert scopes.of("a", [*HEAD, *MEMO]).public_tokens == 2 * BLOCK


def test_a_prompt_that_leaves_the_head_early_shares_what_it_has_of_it():
    """Whole blocks that equal the public head are public, wherever the prompt goes on from there."""
    scopes = PrefixScopes("client", [HEAD])
    assert scopes.of("a", [*HEAD[:BLOCK], *MEMO]).public_tokens == BLOCK
    assert scopes.of("a", MEMO).public_tokens == 0


def test_the_longest_public_head_counts():
    """Of several heads the one that the prompt follows furthest is shared."""
    scopes = PrefixScopes("client", [HEAD[:BLOCK], HEAD, MEMO])
    assert scopes.of("a", [*HEAD, 1]).public_tokens == 2 * BLOCK


def test_owners_share_no_block_behind_a_public_one():
    """Blocks of two owners below the same public block are two blocks, also where their tokens are equal."""
    pool, ids = BlockPool(100), MEMO[: 2 * BLOCK]
    assert cached(pool, PrefixScope("a", BLOCK), ids) == 0
    assert cached(pool, PrefixScope("b", BLOCK), ids) == BLOCK
    assert len(pool) == 3


class Template:
    """Prepares conversations as a template does that writes a system prompt; `tools` may fail."""

    def __init__(self, refuses_tools=None):
        self._refuses_tools = refuses_tools

    def prepare(self, prompt: ChatPrompt):
        if prompt.tools and self._refuses_tools is not None:
            raise self._refuses_tools
        tools = "".join(f"<{tool['function']['name']}>" for tool in prompt.tools)
        told = "".join(f"{message['content']}|" for message in prompt.messages)
        text = f"You help.{'Tools:' if tools else ''}{tools}|{told}"
        return PreparedPrompt([ord(letter) for letter in text])


def test_constant_heads_are_what_the_template_writes():
    """Up to the first message, and up to the first tool; nothing of either."""
    heads = ["".join(map(chr, head)) for head in constant_heads(Template())]
    assert heads == ["You help.|", "You help.Tools:<"]


def test_the_operators_system_prompt_has_a_head_of_its_own():
    """What conversations of the page begin with is shared between clients like the template's own words."""
    heads = ["".join(map(chr, head)) for head in constant_heads(Template(), "Be brief.")]
    assert heads == ["You help.|", "You help.Tools:<", "You help.|Be brief.|"]


def test_a_template_without_tools_has_one_head(text_model):
    """A template that refuses tools is no failure; a real preparer's heads begin its prompts."""
    from engine.errors import ValidationError

    assert len(constant_heads(Template(ValidationError("No tools.")))) == 1
    ids = text_model.preparer.prepare(ChatPrompt(({"role": "user", "content": "Продам диван"},))).token_ids
    head = constant_heads(text_model.preparer)[0]
    assert ids[: len(head)] == head
