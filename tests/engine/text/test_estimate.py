"""Estimates of tokens: from the bytes of texts, which are counted in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import estimate
from engine.text.estimate import BYTES_A_TOKEN, MESSAGE_TOKENS, PIECE, prompt_tokens, text_tokens
from engine.types import ChatPrompt

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}}}


@given(st.text(max_size=50), st.integers(1, 60))
def test_a_text_has_the_bytes_of_its_pieces(text: str, size: int) -> None:
    """Whatever characters lie at their borders."""
    usual, estimate.PIECE = estimate.PIECE, size
    try:
        assert text_tokens(text, 1) == len(text.encode("utf-8", "surrogatepass"))
    finally:
        estimate.PIECE = usual


@pytest.mark.parametrize("tools", [(), (TOOL,), (TOOL,) * 20])
def test_an_estimate_is_near_the_json_of_a_conversation(tools: tuple[dict[str, Any], ...]) -> None:
    """That is what a template writes at most, from which on the estimate was made before."""
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    messages: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": "Расскажи о велосипеде. " * 40},
        {"role": "assistant", "content": [{"type": "text", "text": "a" * 500}], "tool_calls": [call]},
    )
    found = prompt_tokens(ChatPrompt(messages, tools=tools)) - MESSAGE_TOKENS * 3
    written = json.dumps([messages, tools] if tools else [m["content"] for m in messages], ensure_ascii=False)
    assert found * BYTES_A_TOKEN == pytest.approx(len(written.encode()), rel=0.1)


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_no_text_is_encoded_in_one_call(monkeypatch: pytest.MonkeyPatch, tools: tuple[dict[str, Any], ...]) -> None:
    """Others would wait for the interpreter lock meanwhile; nor is a conversation written as JSON for its length."""
    monkeypatch.setattr(json, "dumps", lambda *args, **options: pytest.fail("written"))
    longest: list[int] = []

    class Watched(str):
        def __getitem__(self, part: Any) -> str:
            piece = str.__getitem__(self, part)
            longest.append(len(piece))
            return piece

        def encode(self, *args: Any) -> bytes:
            raise AssertionError("encoded whole")

    text = Watched("б" * (3 * PIECE + 1))
    assert prompt_tokens(ChatPrompt(({"role": "user", "content": text},), tools=tools)) > 2 * PIECE
    assert longest == [PIECE, PIECE, PIECE, 1]
