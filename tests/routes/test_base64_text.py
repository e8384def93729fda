"""Base64 in every form that clients send, and what is none."""

import base64
import binascii
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routes.base64_text import PIECE, PIECE_BYTES, WHITE_SPACE, decoded, encoded

WRITINGS = {
    "standard": base64.standard_b64encode,
    "url-safe": base64.urlsafe_b64encode,
    "without padding": lambda data: base64.b64encode(data).rstrip(b"="),
    "url-safe without padding": lambda data: base64.urlsafe_b64encode(data).rstrip(b"="),
    "in lines": base64.encodebytes,
    "in short lines": lambda data: b"\r\n".join(
        line.encode() for line in textwrap.wrap(base64.b64encode(data).decode(), 33)
    ),
    "indented": lambda data: b"\n  \t" + base64.encodebytes(data).replace(b"\n", b"\n    ") + b" \n",
}


def joined(text, begin=0):
    return b"".join(decoded(text, begin))


@pytest.mark.parametrize("write", WRITINGS.values(), ids=WRITINGS)
@given(st.binary(max_size=200))
def test_every_writing_is_read(write, data):
    """Whatever alphabet, padding and lines it has."""
    assert joined(write(data).decode()) == data


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize("write", WRITINGS.values(), ids=WRITINGS)
def test_pieces_meet_without_a_seam(write, size):
    """A text of several pieces, whose ends are anywhere in a group of four."""
    data = bytes(range(256)) * (PIECE // 128) + b"\xfb\xef\xbe"[:size]
    assert joined("data:," + write(data).decode(), 6) == data


@settings(max_examples=300)
@given(st.binary(min_size=1, max_size=30), st.data())
def test_white_space_may_stand_anywhere(data, draw):
    """Even between the padding."""
    text = base64.b64encode(data).decode()
    at = draw.draw(st.integers(0, len(text)))
    space = draw.draw(st.text(WHITE_SPACE.decode(), max_size=5))
    assert joined(text[:at] + space + text[at:]) == data


@pytest.mark.parametrize(
    "text",
    ["A", "AAAAA", "AAA=A", "A===", "AA===", "AAAA===", "=AAA", "AA=AA=", "A!AA", "AAAÀ", "АААА", "AA\0A", "%41AAA"]
    + ["A" * PIECE + "=" + "A" * 7, "A" * (PIECE - 1) + "=AAAA", "A" * (PIECE + 1)],
)
def test_what_is_no_base64_is_refused(text):
    """Other characters, padding within, more than two of it, and a single character left over."""
    with pytest.raises(ValueError):  # noqa: PT011 # it says nothing more
        joined(text)


def test_pieces_are_short():
    """Each is decoded in a moment, however long the text is."""
    assert max(map(len, decoded("A" * (4 * PIECE)))) <= PIECE


@pytest.mark.parametrize("size", [0, 1, 2, 3, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 2])
def test_bytes_are_written_in_pieces(monkeypatch, size):
    """As the library writes them at once."""
    sizes, write = [], binascii.b2a_base64
    monkeypatch.setattr(binascii, "b2a_base64", lambda data, **more: sizes.append(len(data)) or write(data, **more))
    data = bytes(range(251)) * (size // 251 + 1)
    assert encoded(data[:size]) == write(data[:size], newline=False).decode()
    assert max(sizes, default=0) <= PIECE_BYTES
