"""Long texts in pieces: the same as at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routes import long_text
from routes.long_text import PIECE, utf8, with_line_feeds


class Whole(str):
    """A text that is not to be worked on at once; its parts are."""

    def replace(self, *args):
        pytest.fail("all of it was replaced")

    def encode(self, *args):
        pytest.fail("all of it was encoded")


@given(st.text("a\r\nя😀", max_size=40), st.integers(2, 9))
def test_pieces_divide_no_line_end(text, size):
    """Wherever they meet."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(long_text, "PIECE", size)
        assert with_line_feeds(text) == text.replace("\r\n", "\n")
        assert utf8(text) == text.encode()


@pytest.mark.parametrize(
    "text", ["\r\n" * PIECE, "a\r\n" * PIECE, "\r" * 2 * PIECE, "😀" * 2 * PIECE, "a" * (PIECE + 1)]
)
def test_long_texts_are_changed_in_pieces(text):
    """Of all of a text nothing is asked."""
    assert with_line_feeds(Whole(text)) == text.replace("\r\n", "\n")
    assert utf8(Whole(text)) == text.encode()
