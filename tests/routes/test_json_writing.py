"""JSON of any size is written as any other, in pieces that are short."""

import json

import pytest
from flask import jsonify
from hypothesis import given, settings
from hypothesis import strategies as st

from routes.json_writing import (
    AT_ONCE,
    BUILT_AT_ONCE,
    PIECE,
    VALUE_WEIGHT,
    Written,
    built_later,
    event_of,
    json_bytes,
    json_response,
    pieces,
)
from routes.sse import compact, event

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
# Each is far longer than a piece.
LARGE = {
    "numbers": [-1.2345678901234567] * 100_000,
    "numbers by name": {f"k{number}": number for number in range(50_000)},
    "objects": [{"token": "word", "bytes": [119, 111, 114, 100]}] * 20_000,
    "one object of lists": {"choices": [{"content": [[number, {"a": [number]}] for number in range(20_000)]}]},
    "small and large": [[1], ["x" * AT_ONCE * 2], 3, {"y" * PIECE * 2: "z" * PIECE * 2}, None] * 5,
    "nested": [[[[[[[["deep"] * 9_000, 1], 2], 3], 4], 5], 6], 7],
}


@given(VALUES)
def test_any_value_is_written_as_usual(value):
    """Whatever it holds, empty lists and objects included."""
    assert json_bytes(value) == compact(value).encode()
    assert event_of(value) == event(value)


@settings(max_examples=20)
@given(VALUES, st.integers(AT_ONCE // VALUE_WEIGHT, 1500))
def test_any_value_is_written_as_usual_among_many(value, times):
    """So many are taken apart, in lists and in objects."""
    for many in ([value] * times, {"all": [[value] * times, value]}, {f"k{number}": value for number in range(times)}):
        assert json_bytes(many) == compact(many).encode()


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_no_piece_of_a_large_value_is_long(value):
    """The interpreter lock can be given up between any two; what is small is not taken apart for that."""
    written = list(pieces(value))
    assert "".join(written) == compact(value)
    assert max(map(len, written)) <= PIECE
    assert len(written) < len(compact(value)) / 100


def test_what_is_small_is_one_piece():
    """As an encoder in C writes it, ten times as fast."""
    response = {"instructions": "a", "tools": [{"name": "look", "strict": True}] * 20}
    assert list(pieces(response)) == [compact(response)]


@pytest.mark.parametrize("character", ["A", "я", "😀", '"', "\\", "\x00", "\n"])
def test_a_long_string_is_written_in_pieces(character):
    """No piece is longer than the escapes of PIECE characters; joined, they are the string."""
    value = [{"image_url": character * (3 * PIECE + 5)}]
    written = list(pieces(value))
    assert json.loads("".join(written)) == value
    assert max(map(len, written)) <= 6 * PIECE


@pytest.mark.parametrize("length", [0, 1, BUILT_AT_ONCE, BUILT_AT_ONCE + 1, 1000])
def test_a_list_is_built_while_it_is_written(length):
    """It is the same as one that was built before; a long one is never there as a whole."""
    built = []

    def make(number):
        built.append(number)
        return {"token": str(number)}

    value = {"content": built_later(range(length), make), "refusal": None}
    assert len(built) == (length if length <= BUILT_AT_ONCE else 0)
    assert len(value["content"]) == length
    written = b""
    for piece in pieces(value):
        written += piece.encode()
        assert len(built) - written.count(b"token") <= BUILT_AT_ONCE
    whole = {"content": [{"token": str(number)} for number in range(length)], "refusal": None}
    assert written == compact(whole).encode()
    assert list(value["content"]) == whole["content"]


@pytest.mark.parametrize("value", [{}, {"text": "я\u2028\u0085\x00"}, LARGE["objects"]], ids=["empty", "text", "large"])
def test_a_response_is_that_of_flask(app, value):
    """Byte for byte, also where an event of a stream has escapes; so are its headers."""
    with app.test_request_context():
        ours, flasks = json_response(value), jsonify(value)
    assert ours.get_data() == flasks.get_data()
    assert ours.headers == flasks.headers


@pytest.mark.parametrize("parts", [[], ['{"a":1}'], ['1,"я"', "[2],null", "3"]])
def test_a_list_that_is_written_already_is_put_in_its_place(parts):
    """Whatever stands beside it; it is kept no longer than until it is written."""
    items = json.loads(f"[{','.join(parts)}]")
    written = Written(part.encode() for part in parts)
    for value in ({"lines": written, "total": 3}, [written], written):
        assert json_bytes(value) == compact(replaced(value, written, items)).encode()
        assert not written._parts
        written._parts.extend(part.encode() for part in parts)


def replaced(value, old, new):
    """Return a value with another one in the place of one in it."""
    if value is old:
        return new
    if isinstance(value, dict):
        return {name: replaced(item, old, new) for name, item in value.items()}
    return [replaced(item, old, new) for item in value] if isinstance(value, list) else value


def test_a_large_response_is_sent_in_parts(app):
    """Of a size that is worth it, and told beforehand; a small one is one part."""
    with app.test_request_context():
        large, small = json_response(LARGE["objects"]), json_response({"a": [1]})
    assert len(small.response) == 1
    assert {PIECE <= len(part) < 2 * PIECE for part in large.response[:-1]} == {True}
    assert large.content_length == len(large.get_data())
