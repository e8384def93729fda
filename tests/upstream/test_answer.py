"""The reader of another server's answers: whatever comes is a part of an answer, or one typed error."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ServiceError, UpstreamFailed
from engine.types import AnswerRules, ChatPrompt, TextPrompt, Timings
from tests.upstream.conftest import asking
from upstream.answer import MOST_BYTES, MOST_BYTES_A_TOKEN, WITHHELD, AnswerReader
from upstream.calls import Calls, _Arguments
from upstream.event_stream import MAX_EVENT, MAX_OTHER, EventReader, EventTooLong

RULES = AnswerRules(arguments={"look": {}, "stop": {}})
MAX_TOKENS = 50
HALF_OF_ALL = (MOST_BYTES + MOST_BYTES_A_TOKEN * MAX_TOKENS) // 2  # of the characters of an answer
THINKING = ChatPrompt(({"role": "user", "content": "x"},), thinking=True)


def reader(**values: Any) -> AnswerReader:
    return AnswerReader(asking(**values), 5, MAX_TOKENS)


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
        b'{"choices": [{"delta": {}, "finish_reason": "nonsense"}]}',
        b'{"choices": [{"delta": {}, "finish_reason": 5}]}',
        b'{"choices": [{"delta": {}, "finish_reason": ["stop"]}]}',
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


def test_reasoning_may_be_a_part_of_the_content() -> None:
    """As Mistral's models send it, in lists; the text may be in one, or not."""
    thought = chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}]})
    for text in ("a", [{"type": "text", "text": "a"}, {"type": "reference", "reference_ids": [1]}]):
        assert read(reader(prompt=THINKING), thought, chunk({"content": text})) == "<think>\nhm\n</think>\n\na"
        assert read(reader(), thought, chunk({"content": text})) == "a"


def test_reasoning_between_calls_closes_the_one_before() -> None:
    """Some models think again before each."""
    one = reader(prompt=THINKING, rules=RULES)
    first, second = TWO_CALLS.split("\n<tool_call>")
    read(one, call("look", '{"a":1}', index=0), chunk({"reasoning": "hm"}), call("stop", '{"b":2}', index=1))
    assert one.text == f"{first}<think>\nhm\n</think>\n\n\n<tool_call>{second}"


@pytest.mark.parametrize("space", ["\n", " ", "\n\n"])
def test_white_space_within_a_call_or_behind_it_says_nothing(space: str) -> None:
    """It ends no call, and more of its arguments may follow."""
    parts = [call("look", '{"a"', index=0, id="c"), call("", ":1}", index=0), call("stop", '{"b":2}', index=1)]
    blank = chunk({"content": space})
    assert read(reader(rules=RULES), *(one for part in parts for one in (part, blank))) == TWO_CALLS


def test_a_cut_call_stays_open() -> None:
    """As an engine of ours would leave it, for the parser to show what there is."""
    one = reader(rules=RULES)
    one.read(chunk({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": '{"a'}}]}))
    one.read(chunk(finish_reason="length"))
    one.end()
    assert one.text == '<tool_call>\n{"name": "look", "arguments": {"a'


@pytest.mark.parametrize("field", ["stop_reason", "matched_stop"])
@pytest.mark.parametrize("arguments", ['{"a', '{"a": "b', '{"a": {}', '{"a": "}"', "[", '"{', " "])
def test_a_call_that_the_clients_stop_string_has_cut_stays_open(field: str, arguments: str) -> None:
    """No tag becomes a part of its arguments, which would be text of the model then."""
    one = reader(rules=RULES, stop=("X",))
    for data in (call("look", arguments, index=0), chunk(finish_reason="stop", **{field: "X"})):
        one.read(data)
    one.end()
    assert one.text == f'<tool_call>\n{{"name": "look", "arguments": {arguments}'
    assert one.calls == [("look", arguments)]


@pytest.mark.parametrize("finish", [{"finish_reason": "length"}, {"finish_reason": "stop", "stop_reason": "X"}])
def test_a_call_that_was_whole_when_the_answer_was_cut_is_whole(finish: dict[str, str]) -> None:
    """Whatever has cut it."""
    one = reader(rules=RULES, stop=("X",))
    for data in (call("look", '{"a":1}', index=0), chunk(**finish)):
        one.read(data)
    one.end()
    assert one.text == '<tool_call>\n{"name": "look", "arguments": {"a":1}}\n</tool_call>'


def test_a_stop_string_that_the_client_has_not_named_cuts_nothing() -> None:
    """A server's own, at the end of a turn."""
    one = reader(rules=RULES, stop=("X",))
    one.read(call("look", index=0))
    one.read(chunk(finish_reason="stop", stop_reason="<|im_end|>"))
    one.end()
    assert one.calls == [("look", "{}")]


@pytest.mark.parametrize(("said", "told"), [("X", "X"), ("<|im_end|>", None), (7, None), (None, None)])
def test_only_a_stop_string_of_the_client_is_told(said: object, told: str | None) -> None:
    """A server's own, by which it ends each turn, is nobody's."""
    one = reader(stop=("X", "Y"))
    one.read(chunk({"content": "a"}))
    one.read(chunk(finish_reason="stop", stop_reason=said))
    one.end()
    assert one.completion(Timings(0.0, 0.0, 0.0)).stop == told


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "a"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 1, "id": "c2", "function": {"name": "stop", "arguments": "{}"}}]},
    ],
)
def test_arguments_without_an_end_are_no_call_where_more_follows(delta: dict[str, Any]) -> None:
    """Nothing has cut them, and what follows would become a part of them."""
    one = reader(rules=RULES, prompt=THINKING)
    one.read(call("look", '{"a": "b', index=0, id="c1"))
    with pytest.raises(UpstreamFailed):
        one.read(chunk(delta))


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


def spelled(tokens: list[str]) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": -1} for token in tokens]}


@pytest.mark.parametrize("split", [False, True])
def test_scored_tokens_stand_where_their_text_does(split: bool) -> None:
    """Behind the tags that are added to it, also where the server tells a tag of its own as a token."""
    thoughts, said = ["<think>", "t", "h"], ["</think>", "\n\n", "th", "e"]
    events = [({"reasoning_content": "th"}, thoughts), ({"content": "the"}, said)]
    if split:
        events = [
            ({"reasoning_content": ""}, ["<think>"]),
            ({"reasoning_content": "t"}, ["t"]),
            ({"reasoning_content": "h"}, ["h"]),
            ({"content": ""}, ["</think>", "\n\n"]),
            ({"content": "th"}, ["th"]),
            ({"content": "e"}, ["e"]),
        ]
    one = reader(prompt=THINKING, logprobs=0)
    text = read(one, *(chunk(delta, logprobs=spelled(tokens)) for delta, tokens in events))
    shown = [token for token in one.logprobs if not token.token.startswith(("<", "\n"))]
    assert [text[token.offset :][: len(token.token)] for token in shown] == ["t", "h", "th", "e"]
    assert [token.offset for token in shown] == [8, 9, 21, 23]
    offsets = [token.offset for token in one.logprobs]
    assert offsets == sorted(offsets)
    assert not {token.offset for token in one.logprobs if token not in shown} & {8, 9, *range(21, 24)}


def test_tokens_of_what_nobody_is_shown_are_not_told() -> None:
    """Those of reasoning that was not asked for, and of its end."""
    one = reader(logprobs=0)
    read(
        one,
        chunk({"reasoning_content": "hm"}, logprobs=spelled(["hm"])),
        chunk({"content": "a"}, logprobs=spelled(["</think>", "\n\n", "a"])),
    )
    assert [(token.token, token.offset) for token in one.logprobs] == [("a", 0)]


@pytest.mark.parametrize(("asked", "told"), [(0, []), (1, ["b"]), (2, ["b", "c"]), (3, ["b", "c", "a"]), (9, [*"acb"])])
@pytest.mark.parametrize("chat", [True, False])
def test_a_token_has_no_more_alternatives_than_the_client_asked_for(asked: int, told: list[str], chat: bool) -> None:
    """The likeliest of them: some servers give the chosen one as well, and some one at least, or twenty."""
    scores = {"a": -3.0, "c": -2.0, "b": -1.0, "d": -4.0} if asked < 9 else {"a": -3.0, "c": -2.0, "b": -1.0}
    one = reader(logprobs=asked) if chat else reader(prompt=TextPrompt("x"), logprobs=asked)
    if chat:
        top = [{"token": token, "logprob": score} for token, score in scores.items()]
        one.read(chunk({"content": "a"}, logprobs={"content": [{"token": "a", "logprob": -3, "top_logprobs": top}]}))
    else:
        one.read(chunk(text="a", logprobs={"tokens": ["a"], "token_logprobs": [-3.0], "top_logprobs": [scores]}))
    assert [token for _, token, _ in one.logprobs[0].top] == told


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


@pytest.mark.parametrize(("shown", "given_up"), [(HALF_OF_ALL, False), (HALF_OF_ALL + 1, True)])
def test_what_is_shown_and_what_is_hidden_count_together(shown: int, given_up: bool) -> None:
    """Hidden reasoning takes of the room that there is for the text."""
    one = reader()
    one.read(chunk({"reasoning_content": "x" * HALF_OF_ALL}))
    with pytest.raises(UpstreamFailed) if given_up else nullcontext():
        one.read(chunk({"content": "x" * shown}))


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


@pytest.mark.parametrize("empty", [b"data:\n\n", b"data: \r\n\r\n", b"data:  \n\n", b"data\ndata:\ndata:\n\n"])
def test_an_event_without_data_is_none(empty: bytes) -> None:
    """Servers and proxies send them as signs of life; an endless number of them is given up."""
    events = EventReader()
    assert events.feed(empty + b"data: a\n\n" + empty + b"data: b\ndata:\ndata: c\n\n" + empty) == [b"a", b"b\n\nc"]
    with pytest.raises(EventTooLong):
        any(events.feed(empty * 1000) is None for _ in range(2000))


def test_an_event_without_end_is_given_up() -> None:
    """As no server means that."""
    with pytest.raises(EventTooLong):
        EventReader().feed(b"data: " + b"x" * (MAX_EVENT + 1))
    with pytest.raises(EventTooLong):
        EventReader().feed(b"data: x\n" * (MAX_EVENT // 7 + 1))


def call(name: str = "", arguments: str = "", **beside: Any) -> bytes:
    """Return a chunk with a part of a call. beside: its index and id, if told."""
    return chunk({"tool_calls": [{"function": {"name": name or None, "arguments": arguments}, **beside}]})


TWO_CALLS = (
    '<tool_call>\n{"name": "look", "arguments": {"a":1}}\n</tool_call>\n'
    '<tool_call>\n{"name": "stop", "arguments": {"b":2}}\n</tool_call>'
)


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}])
@pytest.mark.parametrize("again", [{}, {"id": ""}, {"id": "same"}])
def test_calls_are_told_apart_by_their_ids(index: dict[str, Any], again: dict[str, str]) -> None:
    """Some servers send no index, or always 0; an id may stand in every part of a call, or in the first alone."""
    one, ids = reader(rules=RULES), ("c1", "c2")
    parts = [
        part
        for name, (first, second), told in zip(("look", "stop"), (('{"a"', ":1}"), ('{"b"', ":2}")), ids, strict=True)
        for part in (
            call(name, first, id=told, **index),
            call("", second, **({"id": told} if again == {"id": "same"} else again), **index),
        )
    ]
    assert read(one, *parts) == TWO_CALLS


def test_a_call_may_change_its_id_at_its_index() -> None:
    """Some servers make up one for each event; only a name begins another call."""
    parts = [
        call("look", '{"a"', index=0, id="a"),
        call("", ":1}", index=0, id="b"),
        call("stop", '{"b":2}', index=1, id="c"),
    ]
    assert read(reader(rules=RULES), *parts) == TWO_CALLS


def test_calls_in_one_event_are_told_apart_by_their_ids() -> None:
    """As gateways send them that have the whole answer."""
    calls = [
        {"index": 0, "id": told, "function": {"name": name, "arguments": arguments}}
        for told, name, arguments in (("c1", "look", '{"a":1}'), ("c2", "stop", '{"b":2}'))
    ]
    assert read(reader(rules=RULES), chunk({"tool_calls": calls})) == TWO_CALLS


def test_calls_are_told_apart_by_their_indices_alone_too() -> None:
    """Where all have the same id."""
    parts = call("look", '{"a":1}', index=0, id="c"), call("stop", '{"b":2}', index=1, id="c")
    assert read(reader(rules=RULES), *parts) == TWO_CALLS


def test_a_call_that_is_gone_on_with_after_another_has_begun_is_none() -> None:
    """Whether its id or its index says so."""
    for again in ({"id": "c1"}, {"index": 0}):
        one = reader(rules=RULES)
        one.read(call("look", "{}", index=0, id="c1"))
        one.read(call("stop", "{}", index=1, id="c2"))
        with pytest.raises(UpstreamFailed):
            one.read(call("", "}", **again))


@pytest.mark.parametrize("beside", [{}, {"index": None}, {"index": 0}, {"id": ""}, {"index": 0, "id": ""}])
@pytest.mark.parametrize("parts", [1, 2])
def test_calls_without_ids_and_indices_are_told_apart_by_what_they_are(beside: dict[str, Any], parts: int) -> None:
    """By another name, or by another beginning behind arguments that are whole."""
    for names in (("look", "stop"), ("look", "look")):
        events = [
            event
            for name, letter, number in zip(names, "ab", (1, 2), strict=True)
            for event in (
                [call(name, f'{{"{letter}":{number}}}', **beside)]
                if parts == 1
                else [call(name, f'{{"{letter}"', **beside), call("", f":{number}}}", **beside)]
            )
        ]
        one = reader(rules=RULES)
        read(one, *events)
        assert one.calls == [(names[0], '{"a":1}'), (names[1], '{"b":2}')]


def test_calls_without_arguments_are_told_apart_by_their_names() -> None:
    """As nothing else tells them apart."""
    one = reader(rules=RULES)
    read(one, call("look"), call("stop", ""))
    assert one.calls == [("look", "{}"), ("stop", "{}")]


@pytest.mark.parametrize("told", [{}, {"index": 0}, {"index": 0, "id": ""}, {"index": 0, "id": "c"}, {"id": "c"}])
def test_a_name_that_is_told_with_each_part_begins_no_call(told: dict[str, Any]) -> None:
    """Neither within the arguments nor at their end."""
    one = reader(rules=RULES)
    read(one, *(call("look", part, **told) for part in ("", '{"a": {', "}", "}", "", " ")))
    assert one.calls == [("look", '{"a": {}} ')]


def test_an_index_that_is_counted_up_with_each_part_begins_no_call() -> None:
    """Where there is neither an id nor a name, and the arguments are not whole."""
    one, parts = reader(rules=RULES), ("", '{"a": {', "}", "}")
    events = [call("look" if not at else "", part, index=at) for at, part in enumerate(parts)]
    read(one, *events, call("stop", "{}", index=4, id="c"))
    assert one.calls == [("look", '{"a": {}}'), ("stop", "{}")]


def test_arguments_may_come_as_an_object() -> None:
    """It is written as the text that it should have been."""
    one = reader(rules=RULES)
    said = read(one, chunk({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": {"a": "\u044f"}}}]}))
    assert json.loads(one.calls[0][1]) == {"a": "\u044f"}
    assert one.calls[0][1] in said


@pytest.mark.parametrize(
    ("reason", "found"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("eos_token", "stop"),
        ("tool_use", "stop"),
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("safety", None),
        ("sensitive", None),
    ],
)
def test_a_finish_reason_may_have_the_name_that_the_models_maker_gives_it(reason: str, found: str | None) -> None:
    """Where a server passes on what it was told; an answer that is withheld is so by each of the names."""
    one = reader()
    one.read(chunk({"content": "a"}))
    with nullcontext() if found else pytest.raises(UpstreamFailed) as failed:
        one.read(chunk(finish_reason=reason))
    assert one.finish_reason == found
    assert failed is None or failed.value.message == WITHHELD


def test_a_sign_of_life_is_no_part() -> None:
    """As Anthropic's models have them."""
    ping = b'{"type": "ping"}'
    assert read(reader(), ping, chunk({"role": "assistant", "content": None}), ping, chunk({"content": "a"})) == "a"


def test_an_empty_finish_reason_is_none() -> None:
    """Some servers write it in each event before the last."""
    one = reader()
    one.read(chunk({"content": "a"}, finish_reason=""))
    assert one.finish_reason is None
    assert read(one, chunk({"content": "b"}, finish_reason="")) == "ab"


@pytest.mark.parametrize("alternatives", [{}, {"top_logprobs": None}, {"top_logprobs": []}])
@pytest.mark.parametrize("chat", [True, False])
def test_log_probabilities_may_come_without_alternatives(chat: bool, alternatives: dict[str, Any]) -> None:
    """In chats; and for texts as llama.cpp sends them, which is as in chats."""
    logprobs = {"content": [{"id": 1, "token": "a", "bytes": [97], "logprob": -0.1, **alternatives}]}
    one = reader(logprobs=1) if chat else reader(prompt=TextPrompt("x"), logprobs=1)
    one.read(chunk({"content": "a"}, text="a", logprobs=logprobs))
    (found,) = one.logprobs
    assert (found.token, found.logprob, found.data, found.top) == ("a", -0.1, b"a", ())


def usage(prompt: object, output: object, **beside: Any) -> bytes:
    return json.dumps({"usage": {"prompt_tokens": prompt, "completion_tokens": output}, **beside}).encode()


@pytest.mark.parametrize(
    ("told", "tokens"),
    [
        (usage(7, 3), (7, 3)),  # without `choices`
        (usage(7, 3, choices=None), (7, 3)),
        (usage(7.0, 3.0, choices=[]), (7, 3)),
        (usage(7, None, choices=[]), (5, 4)),
        (usage("7", 3, choices=[]), (5, 4)),
        (usage(0, 0, choices=[]), (5, 4)),
        (usage(7, 0, choices=[]), (7, 4)),
        (b'{"usage": 7}', (5, 4)),
        (b'{"error": {"message": "too late"}}', (5, 4)),
        (b"{no json", (5, 4)),
    ],
)
def test_a_whole_answer_stays_so_whatever_follows_it(told: bytes, tokens: tuple[int, int]) -> None:
    """Usage that cannot be used is estimated."""
    one = reader()
    for data in (chunk({"content": "twelve bytes"}), chunk(finish_reason="stop"), told, b"[DONE] "):
        one.read(data)
    one.end()
    assert (one.text, one.done, (one.prompt_tokens, one.output_tokens)) == ("twelve bytes", True, tokens)


@pytest.mark.parametrize(
    ("details", "number"),
    [
        ({"reasoning_tokens": 2}, 2),
        ({"reasoning_tokens": 0}, 0),
        ({}, None),
        (None, None),
        (7, None),
        ({"reasoning_tokens": "2"}, None),
        ({"reasoning_tokens": -1}, None),
    ],
)
def test_the_tokens_of_reasoning_are_those_that_the_server_counts(details: object, number: int | None) -> None:
    """A count that cannot be used is none, and spoils no other."""
    one = reader()
    counts = {"prompt_tokens": 7, "completion_tokens": 3, "completion_tokens_details": details}
    read(one, chunk({"content": "a"}), json.dumps({"usage": counts}).encode())
    completion = one.completion(Timings(0.0, 0.0, 0.0))
    assert (completion.reasoning_tokens, completion.output_tokens) == (number, 3)


UNUSABLE: list[object] = [
    7,
    [1],
    "7",
    {"total_tokens": 9},
    {"prompt_tokens": 7},
    {"prompt_tokens": 7, "completion_tokens": None},
    {"prompt_tokens": "7", "completion_tokens": 1},
    {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": "0"}},
    {"prompt_tokens": 7, "completion_tokens": 1, "prompt_tokens_details": [0]},
    {"prompt_tokens": 10**20, "completion_tokens": 1},
    {"prompt_tokens": 7, "completion_tokens": -1},
    {"prompt_tokens": -1, "completion_tokens": 1},
    {"prompt_tokens": 5.5, "completion_tokens": 1},
]


@pytest.mark.parametrize("told", UNUSABLE)
def test_usage_that_cannot_be_used_spoils_no_answer(told: object) -> None:
    """Wherever it stands: beside each part, in the event of the finish reason, or in one of its own before or after."""
    alone = json.dumps({"choices": [], "usage": told}).encode()

    def beside(delta: dict[str, Any], reason: str | None = None) -> bytes:
        return json.dumps({"choices": [{"delta": delta, "finish_reason": reason}], "usage": told}).encode()

    one = reader()
    for data in (alone, beside({"content": "twelve bytes"}), beside({}, "stop"), alone, b"[DONE]"):
        one.read(data)
    one.end()
    assert (one.text, one.finish_reason) == ("twelve bytes", "stop")
    assert (one.prompt_tokens, one.output_tokens, one.cached_tokens) == (5, 4, 0)


@pytest.mark.parametrize(
    ("counts", "output"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 1012}, 1002),  # Gemini and xAI
        ({"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 1010}, 1000),  # nothing but reasoning
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}, 2),
        ({"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 12.0}, 9),
        ({"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 12}, 2),
        *(({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": wrong}, 2) for wrong in (None, "1", -5, 1e99)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": float("nan")}, 2),
    ],
)
def test_reasoning_that_the_total_alone_has_is_of_the_answer(counts: dict[str, Any], output: int) -> None:
    """The provider charges for it; a total that cannot be used spoils no other count."""
    one = reader()
    one.read(json.dumps({"choices": [{"delta": {"content": "Hi"}}], "usage": counts}).encode())
    one.read(chunk(finish_reason="stop"))
    one.end()
    assert (one.prompt_tokens, one.output_tokens) == (counts["prompt_tokens"] or 5, output)


def test_usage_beside_the_finish_reason_counts() -> None:
    """As some servers tell it."""
    one = reader()
    one.read(chunk({"content": "twelve bytes"}))
    one.read(usage(7, 3, choices=[{"delta": {"role": "assistant", "content": None}, "finish_reason": "stop"}]))
    one.end()
    assert (one.prompt_tokens, one.output_tokens) == (7, 3)


def test_what_is_withheld_at_last_is_withheld() -> None:
    """Though an end was told before."""
    one = reader()
    one.read(chunk({"content": "a"}, finish_reason="stop"))
    with pytest.raises(UpstreamFailed):
        one.read(chunk(finish_reason="content_filter"))


def test_usage_that_is_told_early_is_not_the_last_word() -> None:
    """What came since counts as well; what is told of all that has come is the server's own count."""
    one = reader()
    one.read(usage(9, 1, choices=[{"delta": {"content": "a"}}]))
    for _ in range(20):
        one.read(chunk({"content": "word "}))
    assert (one.prompt_tokens, one.output_tokens >= 21) == (9, True)
    one.read(usage(9, 15, choices=[{"delta": {"content": "word"}}]))
    assert one.output_tokens == 15
    one.read(chunk(finish_reason="stop"))
    assert one.output_tokens == 15


def test_no_more_of_a_prompt_is_cached_than_it_has() -> None:
    """Whatever the server tells: else its answer would cost less than nothing."""
    one = reader()
    told = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}
    read(one, json.dumps({"choices": [], "usage": told}).encode())
    assert (one.prompt_tokens, one.cached_tokens) == (7, 7)


def test_what_is_written_around_a_call_is_no_token_of_the_server() -> None:
    """Its count stays, though the end of the call is written behind it."""
    one = reader(rules=RULES)
    read(one, call("look", '{"a":1}', index=0), usage(9, 3, choices=[]))
    assert one.output_tokens == 3


def test_usage_of_zeros_is_none() -> None:
    """Some servers send it with every event."""
    one = reader()
    for _ in range(20):
        one.read(usage(0, 0, choices=[{"delta": {"content": "word "}}]))
    assert (one.prompt_tokens, one.output_tokens >= 20) == (5, True)


@pytest.mark.parametrize("cut", range(8))
def test_a_mark_at_the_beginning_loses_no_event(cut: int) -> None:
    """That of UTF-8, which some servers write; elsewhere it is a part of what is said."""
    stream, events = b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n", EventReader()
    assert events.feed(stream[:cut]) + events.feed(stream[cut:]) == [b"a", b"\xef\xbb\xbfb"]


def many_parts(number: int, part: str, counted: bool) -> bytes:
    """Return an event with the beginning of a call, of 2 MiB, and so many parts of it. counted: each has an index."""
    parts = [{"index": at if counted else 0, "function": {"arguments": part}} for at in range(1, number)]
    first = {"index": 0, "function": {"name": "look", "arguments": '{"a": "' + "x" * (2 << 20)}}
    return chunk({"tool_calls": [first, *parts]})


@pytest.mark.parametrize(("part", "counted"), [("x", False), ("}", True), ('"}}', True)])
def test_a_call_of_many_parts_takes_time_that_grows_with_their_length(part: str, counted: bool) -> None:
    """Though one event has them all, and each may be the last one's end."""
    one, began = AnswerReader(asking(rules=RULES), 5, 32768), time.thread_time()
    one.read(many_parts(25_000, part, counted))
    assert time.thread_time() - began < 3


@pytest.mark.parametrize("name", ["look", None])
@pytest.mark.parametrize("parts", [1, 1000])
def test_arguments_are_bounded_as_they_come(name: str | None, parts: int) -> None:
    """Those before a name too, and those of all the parts of one event."""
    length = 2 * HALF_OF_ALL // parts + 1
    rest = [{"index": 0, "function": {"arguments": "x" * length}}] * (parts - 1)
    calls = [{"index": 0, "function": {"name": name, "arguments": "x" * length}}, *rest]
    one = Calls(2 * HALF_OF_ALL)
    one.begin()
    with pytest.raises(UpstreamFailed):
        list(map(one.take, calls))
    if parts == 1:
        with pytest.raises(UpstreamFailed):
            reader(rules=RULES).read(chunk({"tool_calls": calls}))


@given(st.lists(st.sampled_from(["{", "}", "{}", '"a":', "1", ",", '"', "\\", '\\"', "[", "]", " "]), max_size=9))
@settings(max_examples=200)
def test_arguments_are_whole_where_they_are_an_object(parts: list[str]) -> None:
    """Asked at any time, or only at the end, with the same answer."""
    asked, at_last, text = _Arguments(), _Arguments(), ""
    for part in parts:
        text += part
        asked.add(part)
        at_last.add(part)
        assert asked.is_whole() == is_object(text)
    assert at_last.is_whole() == is_object(text)
    assert at_last.text() == text


@pytest.mark.parametrize("text", ['{"a": "\\"}"}', '{"a": "\\\\"}', '{"a": ["{", {"b": "]"}]} \n', ' {"\\u007b": {}}'])
def test_arguments_are_whole_however_they_are_cut(text: str) -> None:
    """Within an escape, too; brackets within strings are none."""
    arguments = _Arguments()
    for at, letter in enumerate(text, 1):
        arguments.add(letter)
        assert arguments.is_whole() == is_object(text[:at])
    assert arguments.is_whole()


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def test_white_space_that_is_not_shown_yet_was_made_all_the_same() -> None:
    """It counts once, whether it is shown later, is left out before a call, or the client leaves before either."""
    one = reader(rules=RULES)
    for _ in range(20):
        one.read(chunk({"content": "\n" * 6}))
    assert (one.begun, one.text, one.output_tokens) == (True, "", 40)
    one.read(chunk({"content": "a"}))
    assert (one.text, one.output_tokens) == ("\n" * 120 + "a", 41)
    other = reader(rules=RULES)
    other.read(chunk({"content": "\n" * 120}))
    other.read(call("look", "{}", index=0))
    assert other.output_tokens >= 40


def test_a_call_without_a_name_as_yet_has_begun() -> None:
    """The server has made it, though nothing of it can be shown."""
    one = reader(rules=RULES)
    one.read(call("", '{"a"', index=0))
    assert (one.begun, one.text) == (True, "")
