"""The readers of answers, fed with bodies split anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.http_answer import BadAnswer, ChatStream, EventParser, OwnStream, WholeJson
from tests.benchmarks.harness.splitting import split


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return event(choices=[{"delta": {"content": text}}])


@settings(deadline=None)
@given(st.lists(st.integers(0, 100)))
def test_events_are_the_same_however_the_stream_is_split(offsets: list[int]) -> None:
    """Lines of data are joined, comments and other fields skipped, both line endings accepted."""
    stream = b"event: x\r\ndata: one\r\ndata:two\r\n\r\n: ping\n\ndata: three\n\nid: 5\n\n"
    parser = EventParser()
    events = [found for part in split(stream, offsets) for found in parser.feed(part)]
    assert events == [b"one\ntwo", b"three"]


def test_only_text_counts_as_an_arrival() -> None:
    """The role, an empty piece, the finish reason and the usage are not text."""
    answer = ChatStream()
    answer.feed(event(choices=[{"delta": {"role": "assistant", "content": ""}}]), 1.0)
    answer.feed(delta("a") + delta("b"), 2.0)
    answer.feed(event(choices=[{"delta": {}, "finish_reason": "length"}]), 3.0)
    answer.feed(event(choices=[], usage={"completion_tokens": 5}) + b"data: [DONE]\n\n", 4.0)
    answer.end()
    assert (answer.received.arrivals, answer.received.tokens) == ([2.0, 2.0], 5)


def test_our_own_stream_ends_with_its_figures() -> None:
    """Pieces of text are arrivals; the whole answer at the end is not."""
    answer = OwnStream()
    answer.feed(event(text="a") + b": keep-alive\n\n", 1.0)
    answer.feed(event(text="b"), 2.0)
    answer.feed(event(success=True, data={"text": "ab", "generated_tokens": 2}), 3.0)
    answer.end()
    assert (answer.received.arrivals, answer.received.tokens) == ([1.0, 2.0], 2)


def test_a_finish_reason_ends_an_answer_too() -> None:
    """`transformers serve` never sends [DONE]."""
    answer = ChatStream()
    answer.feed(event(choices=[{"delta": {}, "finish_reason": "length"}], usage={"completion_tokens": 5}), 1.0)
    answer.end()
    assert answer.received.tokens == 5


@pytest.mark.parametrize("kind", [ChatStream, OwnStream])
def test_an_error_in_the_stream_is_a_failure(kind: type[ChatStream | OwnStream]) -> None:
    """Its status was 200 long before."""
    with pytest.raises(BadAnswer, match="error"):
        kind().feed(event(error="x", message="y"), 1.0)


@pytest.mark.parametrize(("kind", "part"), [(ChatStream, delta("a")), (OwnStream, event(text="a"))])
def test_a_stream_without_its_end_is_a_failure(kind: type[ChatStream | OwnStream], part: bytes) -> None:
    """A truncated answer must not count its tokens."""
    answer = kind()
    answer.feed(part, 1.0)
    with pytest.raises(BadAnswer, match="ended without"):
        answer.end()


def test_an_answer_in_one_piece_has_its_tokens() -> None:
    """Our own JSON route counts its tokens; a body without success is a failure."""
    answer = WholeJson()
    answer.feed(b'{"success": true, "data": {"gene', 1.0)
    answer.feed(b'rated_tokens": 7}}', 1.0)
    answer.end()
    assert (answer.received.tokens, answer.received.arrivals) == (7, [])
    refused = WholeJson()
    refused.feed(b'{"error": "overloaded"}', 1.0)
    with pytest.raises(BadAnswer, match="success"):
        refused.end()
