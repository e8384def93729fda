"""What tokens add to a text: joined it is the text, and each begins where it is said to begin."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.text import token_texts
from engine.text.detokenizer import Detokenizer, TokenTable
from engine.text.token_texts import MOST_WAITING, TokenTexts

# Parts of characters, of markers and of space marks, whole ones, and a token without a text.
PIECES = [
    *(b"", b"a", b"<", b"<0", b"x", b"0", b"A", b">", b"<0x0A>", b"<0xF0>", b"<0x9f>", b"9", b" b", b"\xe2", b"\x96"),
    *("é".encode(), "😀".encode(), b"\xf0\x9f", b"\xf0", b"\x9f", b"\x98\x80", b"\x98", b"\x80", b"\xd0", b"\xb4"),
    *("\u2581".encode(), "\u2581a".encode(), b"\xff", b"a\xd0", b"\xb4b\xd0", b"a<0x", b"41>b<"),
]
TABLES = [TokenTable(PIECES, cleans, strips) for cleans, strips in ((False, False), (True, False), (True, True))]


def text_of(table, ids):
    """Return the text of an answer."""
    detokenizer = Detokenizer(table)
    return "".join([*map(detokenizer.add, ids), detokenizer.flush()])


def tokens_of(table, ids):
    """Return what each token adds, and how many were known after each of them."""
    texts, known, counts = TokenTexts(table), [], []
    for token_id in ids:
        known += texts.add(token_id)
        counts.append(len(known))
    return [*known, *texts.flush()], counts


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(TABLES), st.lists(st.integers(0, len(PIECES) - 1), max_size=14))
@example(TABLES[1], [10, 11, 20, 21])
@example(TABLES[2], [13, 14, 13])
@example(TABLES[0], [13, 1])
def test_the_bytes_joined_are_the_text_and_offsets_are_places_in_it(table, ids):
    """For any tokens: incomplete, invalid, hidden, with markers in parts and with space marks."""
    text, (tokens, _) = text_of(table, ids), tokens_of(table, ids)
    assert len(tokens) == len(ids)
    data = b"".join(token.data for token in tokens)
    assert data.decode("utf-8", "replace") == text
    position = 0
    for token in tokens:
        if token.data:
            # The character at the offset is the one that has the token's first byte.
            before = data[:position].decode("utf-8", "ignore") if _valid(data) else None
            if before is not None:
                assert token.offset == len(before)
            assert token.offset < len(text)
        position += len(token.data)
    offsets = [token.offset for token in tokens if token.data]
    assert offsets == sorted(offsets)


def _valid(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("cleans", "pieces", "expected"),
    [
        (False, ["a", "b"], [(b"a", 0), (b"b", 1)]),
        (False, [b"\xf0\x9f", b"\x98", b"\x80", "b"], [(b"\xf0\x9f", 0), (b"\x98", 0), (b"\x80", 0), (b"b", 1)]),
        (False, [b"a\xd0", b"\xb4b\xd0", b"\xb5", "c"], [(b"a\xd0", 0), (b"\xb4b\xd0", 1), (b"\xb5", 3), (b"c", 4)]),
        (False, [b"\xe2", "a"], [(b"\xe2", 0), (b"a", 1)]),
        (False, ["a", b"\xd0"], [(b"a", 0), (b"\xd0", 1)]),
        (False, ["<0x0A>", "b"], [(b"<0x0A>", 0), (b"b", 6)]),
        (True, ["<0x0A>", "b"], [(b"\n", 0), (b"b", 1)]),
        (True, ["a", "<0x", "0A", ">", "b"], [(b"a", 0), (b"\n", 1), (b"", 2), (b"", 2), (b"b", 2)]),
        (True, ["<0xD0>", "<0xB4>", "b"], [(b"\xd0", 0), (b"\xb4", 0), (b"b", 1)]),
        (True, ["a<0", "b"], [(b"a<0", 0), (b"b", 3)]),
        (True, ["\u2581a", "\u2581b"], [(b" a", 0), (b" b", 2)]),
    ],
)
def test_each_token_begins_where_its_first_byte_is(cleans, pieces, expected):
    """Offsets are right behind parts of characters and of markers, whose character belongs to their first token."""
    table = TokenTable([piece if isinstance(piece, bytes) else piece.encode() for piece in pieces], cleans)
    tokens, _ = tokens_of(table, range(len(pieces)))
    assert [(token.data, token.offset) for token in tokens] == expected


def test_a_token_is_known_once_its_characters_are_complete():
    """Whole ones at once, a part of a character with the rest of it."""
    table = TokenTable([b"a", b"\xd0", b"\xb4"], cleans=False)
    assert tokens_of(table, [0, 1, 2, 0])[1] == [1, 1, 3, 4]


@pytest.mark.parametrize("piece", [b"<0xF0>", b"\xf0"])
def test_an_answer_of_parts_of_characters_alone_does_not_wait_for_its_end(piece):
    """A client can force such an answer, and the end of many at once would hold up everybody's next tokens."""
    length = 20_000
    tokens, counts = tokens_of(TokenTable([piece], cleans=True), [0] * length)
    assert max(place + 1 - count for place, count in enumerate(counts)) <= 2 * MOST_WAITING
    assert [(token.data, token.offset) for token in tokens] == [(b"\xf0", index) for index in range(length)]


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(TABLES),
    st.lists(st.sampled_from([*range(len(PIECES)), 0, 2, 3, 9, 13, 17, 18]), max_size=120),
    st.integers(1, 40),
)
@example(TABLES[0], [13] * 100, 1)
@example(TABLES[1], [9] * 60 + [10] * 60, 1)
@example(TABLES[0], [13, 0] * 60, 1)
@example(TABLES[1], [2, 4, 5, 6, 7] * 20, 1)
def test_what_is_settled_early_is_what_the_end_would_tell(table, ids, most):
    """However early it is looked which tokens nothing changes any more."""
    usual = token_texts.MOST_WAITING
    token_texts.MOST_WAITING = 10_000
    try:
        at_the_end, _ = tokens_of(table, ids)
        token_texts.MOST_WAITING = most
        early, _ = tokens_of(table, ids)
    finally:
        token_texts.MOST_WAITING = usual
    assert early == at_the_end


def test_empty_tokens_behind_a_part_of_a_character_are_looked_at_ever_less_often(monkeypatch):
    """They wait, since what follows decides where they are; looking each time would take the square of their number."""
    looks = []
    monkeypatch.setattr(TokenTexts, "_settled", lambda texts: looks.append(len(texts._waiting)) or [])
    tokens_of(TokenTable([b"\xe2", b""], cleans=False), [0, *[1] * 4000])
    assert looks == [64, 128, 256, 512, 1024, 2048]
