"""Answers that are JSON to Python and no text to the library that checks them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from engine.errors import UpstreamFailed
from engine.types import AnswerRules
from upstream.checking import AnswerCheck


def checked(text: str, **rules: Any) -> None:
    asyncio.run(
        AnswerCheck(AnswerRules(field="response_format", schema={"type": "object"}, **rules)).check(text, (), False)
    )


@pytest.mark.parametrize("escape", ["\\ud800", "\\uD800", "\\udc00\\ud800", "x\\udfff"])
def test_half_a_character_breaks_the_form(escape: str) -> None:
    """As a value and as a name; nothing of it reaches the library, which takes text alone."""
    for text in (f'{{"a":"{escape}"}}', f'{{"{escape}":1}}', f'{{"a":[{{"b":"{escape}"}}]}}'):
        assert json.loads(text)
        with pytest.raises(UpstreamFailed):
            checked(text)


def test_a_character_in_two_halves_is_one() -> None:
    """A pair of escapes, in either spelling."""
    checked('{"a":"\\ud83d\\ude00","b":"\\uD83D\\uDE00"}')


@pytest.mark.parametrize("forced", [True, False])
def test_half_a_character_in_a_free_call_is_mended_later(forced: bool) -> None:
    """As models write it now and then; a forced call is held to its schema."""
    rules = AnswerRules(call="required" if forced else "auto", arguments={"look": {"type": "object"}})
    checking = AnswerCheck(rules).check("", [("look", '{"a":"\\ud83d"}')], False)
    if forced:
        with pytest.raises(UpstreamFailed):
            asyncio.run(checking)
    else:
        asyncio.run(checking)
