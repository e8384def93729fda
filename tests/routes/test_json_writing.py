"""JSON with long strings is written as any other, in pieces that are short."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routes.json_writing import PIECE, json_bytes, pieces
from routes.sse import compact

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.integers(0, 3))
def test_any_value_is_written_as_usual(value, levels):
    """Whatever it holds, empty lists and objects included, however far it is taken apart."""
    assert json_bytes(value) == json_bytes(value, levels) == compact(value).encode()


def test_what_is_below_the_levels_is_one_piece():
    """A response's instructions come in pieces, each of its tools in one."""
    response = {"instructions": "a" * 3 * PIECE, "tools": [{"name": "look", "strict": True}] * 2}
    written = list(pieces(response, 2))
    assert json.loads("".join(written)) == response
    assert max(map(len, written)) == PIECE
    assert written.count('{"name":"look","strict":true}') == 2


@pytest.mark.parametrize("character", ["A", "я", "😀", '"', "\\", "\x00", "\n"])
def test_a_long_string_is_written_in_pieces(character):
    """No piece is longer than the escapes of PIECE characters; joined, they are the string."""
    value = [{"image_url": character * (3 * PIECE + 5)}]
    written = list(pieces(value))
    assert json.loads("".join(written)) == value
    assert max(map(len, written)) <= 6 * PIECE
