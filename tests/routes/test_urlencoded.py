"""A form is read as the standard library reads it, in pieces whose work is bounded."""

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routes.urlencoded import PIECE_BYTES, decoded, pairs, pieces


def outcome(read):
    """Return what is read, or the kind of error."""
    try:
        return read()
    except ValueError as error:
        return type(error)


BYTES = st.text(alphabet="%&=+a0dDeE\u00e9 \ud7ff", max_size=40).map(str.encode)


@given(BYTES, st.sampled_from((b"", b"x" * (PIECE_BYTES - 4))))
def test_a_form_has_the_fields_that_the_standard_library_finds(text, before):
    """Whatever the escapes, whole, broken or cut off, also where a piece ends."""
    body = before + text
    assert outcome(lambda: pairs(body, 32)) == outcome(
        lambda: parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=32)
    )


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_what_a_browser_encodes_is_read(fields):
    """Names and values come back."""
    assert dict(pairs(urlencode(fields).encode(), 32)) == fields


@pytest.mark.parametrize("text", [b"%" * 100_000, b"%41" * 40_000, b"a%" * 50_000, b"%%41" * 30_000, b"+" * 100_000])
def test_no_piece_of_a_long_value_is_long(text):
    """One call decodes a few thousand bytes, and no escape is cut."""
    found = list(pieces(text))
    assert b"".join(found) == text
    assert max(map(len, found)) <= PIECE_BYTES
    assert decoded(text) == parse_qsl(b"a=" + text)[0][1].decode()


@pytest.mark.parametrize("text", [b"a=\xc3%A9", b"a=%C3\xa9", b"\xc3=\xa9"])
def test_an_escape_completes_no_character(text):
    """A character is written by its bytes or by their escapes, and stands in one field."""
    with pytest.raises(UnicodeDecodeError):
        pairs(text, 32)


def test_too_many_fields_are_refused():
    """Before any of them is decoded."""
    assert len(pairs(b"&".join([b"a=1"] * 32), 32)) == 32
    with pytest.raises(ValueError, match="32 fields"):
        pairs(b"&".join([b"a=1"] * 33), 32)
