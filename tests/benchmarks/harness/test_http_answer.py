"""The client's parsers, fed with answers cut anywhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.http_answer import BadAnswer, ChatStream, EventParser, HttpParser, OwnStream, WholeJson

BODY = b'data: {"a": 1}\n\n: comment\n\ndata: [DONE]\n\n'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:20], BODY[20:]))
    + b"0\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return the data in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    starts = [0, *ends]
    return [data[start:end] for start, end in zip(starts, ends, strict=False)]


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return event(choices=[{"delta": {"content": text}}])


@given(st.sampled_from([CHUNKED, SIZED]), st.lists(st.integers(0, 400)))
def test_the_body_is_the_same_however_the_answer_is_cut(answer: bytes, places: list[int]) -> None:
    """Framing never shows, wherever the network splits it."""
    parser = HttpParser()
    assert b"".join(parser.feed(part) for part in cut(answer, places)) == BODY
    assert (parser.status, parser.done) == (200, True)


@given(st.integers(0, len(CHUNKED) - 1))
def test_an_answer_that_breaks_off_is_no_answer(length: int) -> None:
    """A connection closed before the last chunk is a failure."""
    parser = HttpParser()
    parser.feed(CHUNKED[:length])
    if not parser.done:
        with pytest.raises(BadAnswer, match="middle"):
            parser.end()
    else:
        assert CHUNKED[:length].endswith((b"0\r\n", b"0\r\n\r"))


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    """HTTP/1.0 style answers are whole when the server closes."""
    parser = HttpParser()
    assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") == b"abc"
    assert not parser.done
    parser.end()
    assert parser.done


def test_what_is_not_http_is_refused() -> None:
    """A wrong port must not look like a fast server."""
    with pytest.raises(BadAnswer, match="not HTTP"):
        HttpParser().feed(b"SSH-2.0-OpenSSH\r\n\r\n")


@given(st.lists(st.integers(0, 100)))
def test_events_are_the_same_however_the_stream_is_cut(places: list[int]) -> None:
    """Lines of data are joined, comments and other fields passed over, both ends of line known."""
    stream = b"event: x\r\ndata: one\r\ndata:two\r\n\r\n: ping\n\ndata: three\n\nid: 5\n\n"
    parser = EventParser()
    events = [found for part in cut(stream, places) for found in parser.feed(part)]
    assert events == [b"one\ntwo", b"three"]


def test_only_text_counts_as_an_arrival() -> None:
    """The role, an empty piece, the finish reason and the usage are no text."""
    answer = ChatStream()
    answer.feed(event(choices=[{"delta": {"role": "assistant", "content": ""}}]), 1.0)
    answer.feed(delta("a") + delta("b"), 2.0)
    answer.feed(event(choices=[{"delta": {}, "finish_reason": "length"}]), 3.0)
    answer.feed(event(choices=[], usage={"completion_tokens": 5}) + b"data: [DONE]\n\n", 4.0)
    answer.end()
    assert (answer.heard.arrivals, answer.heard.tokens) == ([2.0, 2.0], 5)


def test_our_own_stream_ends_with_its_figures() -> None:
    """Texts are arrivals; the whole answer at the end is none."""
    answer = OwnStream()
    answer.feed(event(text="a") + b": keep-alive\n\n", 1.0)
    answer.feed(event(text="b"), 2.0)
    answer.feed(event(success=True, data={"text": "ab", "generated_tokens": 2}), 3.0)
    answer.end()
    assert (answer.heard.arrivals, answer.heard.tokens) == ([1.0, 2.0], 2)


def test_a_finish_reason_ends_an_answer_too() -> None:
    """`transformers serve` never says [DONE]."""
    answer = ChatStream()
    answer.feed(event(choices=[{"delta": {}, "finish_reason": "length"}], usage={"completion_tokens": 5}), 1.0)
    answer.end()
    assert answer.heard.tokens == 5


@pytest.mark.parametrize("kind", [ChatStream, OwnStream])
def test_an_error_in_the_stream_is_a_failure(kind: type[ChatStream | OwnStream]) -> None:
    """Status 200 was sent long before."""
    with pytest.raises(BadAnswer, match="error"):
        kind().feed(event(error="x", message="y"), 1.0)


@pytest.mark.parametrize(("kind", "part"), [(ChatStream, delta("a")), (OwnStream, event(text="a"))])
def test_a_stream_without_its_end_is_a_failure(kind: type[ChatStream | OwnStream], part: bytes) -> None:
    """A truncated answer must not count its tokens."""
    answer = kind()
    answer.feed(part, 1.0)
    with pytest.raises(BadAnswer, match="ended without"):
        answer.end()


def test_an_answer_in_one_piece_tells_its_tokens() -> None:
    """Our own JSON route says how many it made; a failure is one."""
    answer = WholeJson()
    answer.feed(b'{"success": true, "data": {"gene', 1.0)
    answer.feed(b'rated_tokens": 7}}', 1.0)
    answer.end()
    assert (answer.heard.tokens, answer.heard.arrivals) == (7, [])
    refused = WholeJson()
    refused.feed(b'{"error": "overloaded"}', 1.0)
    with pytest.raises(BadAnswer, match="success"):
        refused.end()
