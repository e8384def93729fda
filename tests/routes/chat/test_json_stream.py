"""JSON as models write it becomes JSON that every client reads, the same in any pieces."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routes.chat.json_stream import MAX_DEPTH, JsonStream


def read(text, cuts=()):
    """Return what is written of a text in pieces, whether it is complete, and what is left."""
    stream, written, left = JsonStream(), "", ""
    edges = [0, *cuts, len(text)]
    for start, end in zip(edges, edges[1:], strict=False):
        if stream.done or stream.broken:
            left += text[start:end]
        else:
            written += stream.feed(text[start:end])
            left = stream.rest
    return written, stream.done, left


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def strict(text):
    """Return a value as a strict reader does."""
    text.encode()
    value = json.loads(text, parse_constant=refuse)
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # no infinity and no half of a pair
    return value


@pytest.mark.parametrize(
    ("made", "value"),
    [
        ('{"a": [1, -2.5e3, true, false, null, "x", {}, []]}', {"a": [1, -2500.0, True, False, None, "x", {}, []]}),
        ('{ "a" :1 ,\n"b":[ ]\t}', {"a": 1, "b": []}),
        (r'"\ud83d"', "\ufffd"),
        (r'"\ude00"', "\ufffd"),
        (r'"\ud83d\ude00"', "😀"),
        (r'"\uD83D\uDE00\uDE00"', "😀\ufffd"),
        (r'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (r'"\ud83dx\ud83d\n"', "\ufffdx\ufffd\n"),
        (r'"\ud83d\u0041"', "\ufffdA"),
        ('"a\nb\tc\x00\x1f\x7f\u2028"', "a\nb\tc\x00\x1f\x7f\u2028"),
        (r'"\d+\x41\u12g"', r"\d+\x41\u12g"),
        (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
        ("[1e999, -1e999]", [1.7976931348623157e308, -1.7976931348623157e308]),
        (f"[{'9' * 5000}]", [1.7976931348623157e308]),
        ("[1e-999, 12345678901234567890]", [0.0, 12345678901234567890]),
        ("[NaN, Infinity, -Infinity]", [None, None, None]),
        ("[True, False, None]", [True, False, None]),
        ('{"a": [1, 2,], "b": {"c": 1,},}', {"a": [1, 2], "b": {"c": 1}}),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_what_models_write_becomes_json(made, value):
    """Half a surrogate pair, control characters, unknown escapes, Python's words, and numbers that are none."""
    written, done, left = read(made + " ]")
    assert done
    assert left == " ]"
    assert strict(written) == value
    assert read(made + " ]", range(1, len(made) + 2)) == (written, True, " ]")


@pytest.mark.parametrize(
    "made",
    [
        "{1: 2}",
        "{'a': 1}",
        "[1 2]",
        '{"a"}',
        '{"a":}',
        '{"a", 1}',
        "[}",
        "{]",
        "[,]",
        "{,}",
        "[01]",
        "[+1]",
        "[1.]",
        "[.5]",
    ]
    + ["[--1]", "[tru]", "[undefined]", "[nul1]", "[1-2]", "]", ",", "}", '{"a" "b"}', '["a" "b"]', "[1:2]"],
)
def test_what_is_no_json_is_broken(made):
    """It is not complete, and what is written of it is the beginning of a JSON text."""
    written, done, _ = read(made)
    assert not done
    assert read(made, range(1, len(made)))[:2] == (written, False)
    assert made.replace(" ", "").startswith(written.replace(" ", ""))


def test_nesting_is_bounded():
    """Readers that recurse fail somewhere above."""
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read(deep)[:2] == (deep, True)
    assert not read(f"[{deep}]")[1]


def test_nothing_uncertain_is_written():
    """A number may go on, and an escape may be half of a pair."""
    stream = JsonStream()
    assert stream.feed("[12") == "["
    assert stream.feed("3,") == "123"
    assert stream.feed(r' "a\ud83') == ', "a'
    assert stream.feed(r"d\u") == ""
    assert stream.feed(r'de00"') == r'\ud83d\ude00"'
    assert not stream.done
    assert stream.feed("]") == "]"
    assert stream.done


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(json_values, max_size=3), st.booleans(), st.data())
def test_json_keeps_its_value(value, ascii_only, data):
    """However it is written and cut."""
    made = json.dumps(value, ensure_ascii=ascii_only, indent=data.draw(st.sampled_from([None, 2])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=5)))
    written, done, left = read(made, cuts)
    assert (strict(written), done, left) == (value, True, "")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(alphabet='{}[]:," \\u12dDe9-.+tfnNaI\n', max_size=40), st.data())
def test_any_text_is_read_the_same_in_any_pieces(text, data):
    """What is complete is JSON."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    whole = read(text)
    assert read(text, cuts) == whole
    if whole[1]:
        strict(whole[0])
