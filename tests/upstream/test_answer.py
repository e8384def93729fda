"""The reader of another server's answers: whatever comes is a part of an answer, or one typed error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ServiceError, UpstreamFailed
from engine.types import AnswerRules, ChatPrompt, TextPrompt
from tests.upstream.conftest import asking
from upstream.answer import AnswerReader
from upstream.event_stream import MAX_EVENT, MAX_OTHER, EventReader, EventTooLong

RULES = AnswerRules(arguments={"look": {}, "stop": {}})
THINKING = ChatPrompt(({"role": "user", "content": "x"},), thinking=True)


def reader(**values: Any) -> AnswerReader:
    return AnswerReader(asking(**values), 5, 50)


def chunk(delta: Any = None, **choice: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta or {}, **choice}]}).encode()


def read(one: AnswerReader, *chunks: bytes) -> str:
    """Return the text of whole answer."""
    for data in (*chunks, chunk(finish_reason="stop"), b"[DONE]"):
        one.read(data)
    one.end()
    return one.text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b"{}",
        b"\xff",
        b"{",
        b"<html>",
        b'{"choices": 5}',
        b'{"choices": [5]}',
        b'{"choices": [{"delta": 5}]}',
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {"content": ["a"]}}]}',
        b'{"choices": [{"delta": {"tool_calls": 5}}]}',
        b'{"choices": [{"delta": {"tool_calls": [5]}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": "x"}]}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": 1e400, "function": {}}]}}]}',
        b'{"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": 5}}]}}]}',
        b'{"choices": [], "usage": {"prompt_tokens": 100000000000000000000, "completion_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": -1}}',
        b'{"choices": [{"delta": {}, "finish_reason": "nonsense"}]}',
        b'{"choices": [{"delta": {}, "finish_reason": 5}]}',
        b'{"choices": [{"delta": {}, "finish_reason": ["stop"]}]}',
        b'{"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": "1", "completion_tokens": 1}}',
        b'{"choices": [], "usage": {"prompt_tokens": 1}}',
        b'{"choices": [], "usage": [1]}',
        b'{"error": {"message": "secret words"}}',
        b'{"error": "secret words", "choices": []}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_chunk_is_one_typed_error(data: bytes) -> None:
    """And nothing of it is in the message."""
    with pytest.raises(UpstreamFailed) as failed:
        reader(rules=RULES).read(data)
    assert "secret" not in failed.value.message


@pytest.mark.parametrize("half", [b"\\ud800", b"\\uDC00", b"\xed\xa0\x80"])
def test_half_a_surrogate_pair_is_no_text(half: bytes) -> None:
    """It could not be sent on; whole pairs stay, beside it too."""
    one = reader()
    piece = one.read(b'{"choices": [{"delta": {"content": "a' + half + b'\\ud83d\\ude00"}}]}')
    assert piece is not None
    assert piece.text.rstrip("\N{GRINNING FACE}").strip("\ufffd") == "a"
    assert piece.text.endswith("\N{GRINNING FACE}")
    assert piece.text.encode()


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "content", "tool_calls", "function", "name", "usage", "finish_reason"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_read_or_a_typed_error(value: Any) -> None:
    """No other exception leaves the reader."""
    one = reader(rules=RULES, logprobs=1)
    try:
        one.read(json.dumps(value).encode())
        one.end()
    except ServiceError:
        pass


def test_half_an_answer_is_none() -> None:
    """Without a finish reason it may be anything."""
    one = reader()
    one.read(chunk({"content": "a"}))
    with pytest.raises(UpstreamFailed):
        one.end()


def test_calls_without_tools_and_mixed_calls_are_none() -> None:
    """Nobody asked for the first, and nobody could read the second."""
    call = {"index": 0, "function": {"name": "look", "arguments": "{}"}}
    with pytest.raises(UpstreamFailed):
        reader().read(chunk({"tool_calls": [call]}))
    one = reader(rules=RULES)
    for index in (0, 1):
        one.read(chunk({"tool_calls": [{**call, "index": index}]}))
    with pytest.raises(UpstreamFailed):
        one.read(chunk({"tool_calls": [call]}))


def test_white_space_before_a_call_is_left_out_and_before_text_is_kept() -> None:
    """Some servers send it in front of every call."""
    call = {"index": 0, "function": {"name": "look", "arguments": "{}"}}
    said = read(reader(rules=RULES), chunk({"content": "\n\n"}), chunk({"tool_calls": [call]}))
    assert said == '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
    assert read(reader(), chunk({"content": "\n\n"}), chunk({"content": "a"})) == "\n\na"
    assert read(reader(), chunk({"content": "  "})) == "  "


def test_reasoning_is_shown_where_it_is_asked_for() -> None:
    """And counted where it is not; by both names that servers give it."""
    for name in ("reasoning", "reasoning_content"):
        parts = chunk({name: "hm"}), chunk({"content": "a"})
        assert read(reader(prompt=THINKING), *parts) == "<think>\nhm\n</think>\n\na"
        silent = reader()
        assert read(silent, *parts) == "a"
        assert silent.output_tokens >= 2


def test_a_cut_call_stays_open() -> None:
    """As an engine of ours would leave it, for the parser to show what there is."""
    one = reader(rules=RULES)
    one.read(chunk({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": '{"a'}}]}))
    one.read(chunk(finish_reason="length"))
    one.end()
    assert one.text == '<tool_call>\n{"name": "look", "arguments": {"a'


def test_log_probabilities_are_those_of_the_server() -> None:
    """With the bytes of parts of characters, and where each token begins."""
    tokens = [
        {
            "token": "ab",
            "logprob": -1,
            "bytes": [97, 98],
            "top_logprobs": [{"token": "c", "logprob": -2, "bytes": [99]}],
        },
        {"token": "�", "logprob": -3, "bytes": [240, 159], "top_logprobs": []},
    ]
    one = reader(logprobs=1)
    read(one, chunk({"content": "ab�"}, logprobs={"content": tokens}))
    first, second = one.logprobs
    assert (first.token, first.logprob, first.data, first.top[0][1:], first.top_data) == (
        "ab",
        -1.0,
        b"ab",
        ("c", -2.0),
        (b"c",),
    )
    assert (second.data, second.offset) == (b"\xf0\x9f", 2)


def test_a_text_that_is_continued_is_read_too() -> None:
    """The older route, with its log probabilities."""
    one = reader(prompt=TextPrompt("x"), logprobs=1)
    legacy = {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"b": -2.0}]}
    one.read(json.dumps({"choices": [{"text": "a", "logprobs": legacy, "finish_reason": "length"}]}).encode())
    one.end()
    assert (one.text, one.finish_reason, one.logprobs[0].top[0][1]) == ("a", "length", "b")


def test_an_answer_without_end_is_given_up() -> None:
    """It would fill the memory."""
    one = reader()
    with pytest.raises(UpstreamFailed):
        list(map(one.read, [chunk({"content": "x" * 10_000})] * 100))


@pytest.mark.parametrize(
    "delta",
    [
        {"content": " " * 1000},
        {"reasoning_content": "x" * 1000},
        {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 1000}}]},
        {"role": "assistant", "padding": "x" * 1000},
    ],
)
def test_nothing_is_kept_without_bound_though_no_text_is_shown(delta: dict[str, Any]) -> None:
    """White space that may precede a call, hidden reasoning, arguments before a name, fields nobody asked for."""
    one = reader(rules=RULES)
    with pytest.raises(UpstreamFailed):
        list(map(one.read, [chunk(delta)] * 1000))


@pytest.mark.parametrize(("said", "score"), [("-Infinity", -9999.0), ("-1e999", -9999.0), ("-0.5", -0.5)])
def test_a_log_probability_is_a_number_of_json(said: str, score: float) -> None:
    """That of the impossible is what other servers write for it."""
    one = reader(logprobs=0)
    token = b'{"token": "a", "logprob": %s, "top_logprobs": []}' % said.encode()
    one.read(b'{"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [%s]}}]}' % token)
    assert one.logprobs[0].logprob == score


@pytest.mark.parametrize("wrong", [b'"logprob": NaN', b'"logprob": Infinity', b'"logprob": -1, "bytes": 1000000'])
def test_what_is_no_log_probability_is_nonsense(wrong: bytes) -> None:
    """Nor is a number of bytes the bytes."""
    token = b'{"token": "a", "top_logprobs": [], %s}' % wrong
    with pytest.raises(UpstreamFailed):
        reader(logprobs=0).read(b'{"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [%s]}}]}' % token)


@given(st.lists(st.integers(1, 40), max_size=8))
@settings(max_examples=30)
def test_events_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    """Lines of any ending, comments, fields that do not count, data of several lines."""
    stream = b': hi\r\ndata: {"a":1}\r\n\r\nevent: x\nid: 3\ndata:b\n\n\n\ndata: c\ndata: d\n\ndata: e'
    reader, found, rest = EventReader(), [], stream
    for cut in cuts:
        found += reader.feed(rest[:cut])
        rest = rest[cut:]
    found += [*reader.feed(rest), *reader.rest()]
    assert found == [b'{"a":1}', b"b", b"c\nd", b"e"]


@pytest.mark.parametrize("line", [b"\n", b": ping\n", b"event: x\r\n", b"data\n", b"id: " + bytes(1000) + b"\n"])
def test_lines_without_data_are_given_up_where_they_do_not_end(line: bytes) -> None:
    """They would cost time for as long as the server sends them; beside data there may be more of them."""
    events = EventReader()
    for _ in range(MAX_OTHER // 1000):
        assert events.feed(b"data: " + b"x" * 1000 + b"\n" + line) is not None
    many = line * (4096 // len(line) + 1)
    with pytest.raises(EventTooLong):
        any(events.feed(many) is None for _ in range(2000))


def test_an_event_without_end_is_given_up() -> None:
    """As no server means that."""
    with pytest.raises(EventTooLong):
        EventReader().feed(b"data: " + b"x" * (MAX_EVENT + 1))
    with pytest.raises(EventTooLong):
        EventReader().feed(b"data: x\n" * (MAX_EVENT // 7 + 1))
