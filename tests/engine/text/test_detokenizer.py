"""Properties of the detokenizer, compared with the tokenizer's own decode()."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from engine.text.detokenizer import Detokenizer, TokenTable
from tests.trained_tokenizers import SPECIAL_TOKENS, sentencepiece_tokenizer, trained_tokenizer

PLAIN = trained_tokenizer()
# The tokens of a vocabulary converted from SentencePiece: bytes, and the space mark before a word.
CONVERTED = trained_tokenizer(("<0x0A>", "<0x20>", "\u2581", "\u2581диван", "\u2581and"))
PLAIN_TABLE = TokenTable.of(PLAIN)
CONVERTED_TABLE = TokenTable.of(CONVERTED)

ids_of = st.lists(st.integers(0, PLAIN.get_vocab_size() - 1), max_size=40)
any_text = st.text(st.sampled_from("абвяabz <0xAé€😀\n#."), max_size=40)


def run(table, ids, stop=()):
    """Feed ids one by one; return the pieces, the last one flushed, and the detokenizer."""
    detokenizer = Detokenizer(table, stop)
    pieces = [detokenizer.add(token_id) for token_id in ids]
    return [*pieces, detokenizer.flush()], detokenizer


def bytewise(tokenizer, text):
    """Return the ids of a text with one token for each byte."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [tokenizer.token_to_id(char) for piece, _ in alphabet.pre_tokenize_str(text) for char in piece]


def encode(tokenizer, text):
    """Return the ids of a text in which nothing is an added token."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(state)).encode(text).ids


@settings(deadline=None)
@given(ids_of)
def test_pieces_join_to_the_tokenizers_own_text(ids):
    """For any ids, special and incomplete ones included, the text equals that of decode()."""
    assert "".join(run(PLAIN_TABLE, ids)[0]) == PLAIN.decode(ids, skip_special_tokens=True)


@settings(deadline=None)
@given(any_text)
def test_no_piece_contains_part_of_a_character(text):
    """A text split into bytes shows no replacement character at any point of the stream."""
    pieces, _ = run(PLAIN_TABLE, bytewise(PLAIN, text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_incomplete_character_at_the_end_becomes_a_replacement():
    """It is shown as decode() shows it."""
    ids = bytewise(PLAIN, "да")[:-1]
    pieces, _ = run(PLAIN_TABLE, ids)
    assert pieces[-1] == "\ufffd"
    assert "".join(pieces) == PLAIN.decode(ids)


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_are_hidden(token):
    """A special token has no text, even between the bytes of a character."""
    first, second = bytewise(PLAIN, "д")
    assert "".join(run(PLAIN_TABLE, [first, PLAIN.token_to_id(token), second])[0]) == "д"


def test_tokens_that_are_not_special_are_shown():
    """A reasoning marker is text, as for decode()."""
    assert "".join(run(PLAIN_TABLE, [PLAIN.token_to_id("<think>")])[0]) == "<think>"


def test_hidden_ids_and_ids_without_a_token_have_no_text():
    """The model's vocabulary may be larger than the tokenizer's, and an end token may be not special."""
    think = PLAIN.token_to_id("<think>")
    table = TokenTable.of(PLAIN, vocab_size=600, hidden=[think])
    assert "".join(run(table, [think, 599, *bytewise(PLAIN, "a")])[0]) == "a"


def test_the_bytes_of_a_single_token():
    """A part of a character has its own, a marker those of the character it spells."""
    assert PLAIN_TABLE.data(bytewise(PLAIN, "a")[0]) == b"a"
    assert PLAIN_TABLE.data(bytewise(PLAIN, "д")[0]) == "д".encode()[:1]
    assert CONVERTED_TABLE.data(CONVERTED.token_to_id("<0x0A>")) == b"\n"


# --- stop strings ---


@settings(deadline=None)
@given(any_text, st.lists(st.text("абz <#.", min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
@example("a<#b", ["<#>", "#b"], True)
@example("ааб", ["аб"], True)
def test_a_stop_string_ends_the_text_before_it(text, stops, split):
    """Across any token boundaries the text ends where the first complete stop string begins, and none is shown."""
    ids = bytewise(PLAIN, text) if split else encode(PLAIN, text)
    pieces, detokenizer = run(PLAIN_TABLE, ids, tuple(stops))
    shown = "".join(pieces)
    assert detokenizer.stopped == any(stop in text for stop in stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if detokenizer.stopped:
        assert detokenizer.stop in stops
        assert text.startswith(detokenizer.stop, len(shown))
    else:
        assert (shown, detokenizer.stop) == (text, None)


@pytest.mark.parametrize("split", [True, False])
def test_of_two_stop_strings_at_one_place_the_shorter_is_named(split):
    """It is complete first, whether both come with one token or not."""
    ids = bytewise(PLAIN, "a##") if split else encode(PLAIN, "a##")
    assert [run(PLAIN_TABLE, ids, stops)[1].stop for stops in (("##", "#"), ("#", "##"))] == ["#", "#"]


def test_no_part_of_a_stop_string_is_shown_early():
    """The possible start of a stop string is held back until it turns out not to be one."""
    detokenizer = Detokenizer(PLAIN_TABLE, ("END",))
    assert [detokenizer.add(token_id) for token_id in bytewise(PLAIN, "aENb")] == ["a", "", "", "ENb"]


def test_what_only_begins_like_a_stop_string_is_shown_at_once():
    """Its first letter holds nothing back once another than the second has followed."""
    detokenizer = Detokenizer(TokenTable([b"xa", b"z", b"ax"], cleans=False), ("abc",))
    assert [detokenizer.add(token_id) for token_id in (0, 1, 2)] == ["x", "az", "ax"]


def test_the_start_of_a_stop_string_at_the_end_is_shown():
    """Held text that is not completed to a stop string belongs to the answer."""
    pieces, detokenizer = run(PLAIN_TABLE, bytewise(PLAIN, "aEN"), ("END",))
    assert pieces == ["a", "", "", "EN"]
    assert not detokenizer.stopped


def test_nothing_is_shown_after_a_stop():
    """Later tokens and the flush return no text."""
    detokenizer = Detokenizer(PLAIN_TABLE, ("#",))
    shown = [detokenizer.add(token_id) for token_id in bytewise(PLAIN, "a#bд")]
    assert "".join(shown) + detokenizer.flush() == "a"


# --- SentencePiece markers ---


def test_only_a_converted_vocabulary_is_cleaned():
    """A plain vocabulary has no marker tokens, so the text `<0x0A>` stays as it is."""
    assert not PLAIN_TABLE.cleans
    assert "".join(run(PLAIN_TABLE, bytewise(PLAIN, "<0x0A>\u2581"))[0]) == "<0x0A>\u2581"


@pytest.mark.parametrize("tokens", [("<0x0A>",), ("\u2581слово",), ("âĸģslovo",)])
def test_a_converted_vocabulary_is_recognized_by_its_tokens(tokens):
    """By a byte token, or the space mark before a letter, in either spelling."""
    assert TokenTable.of(trained_tokenizer(tokens)).cleans


@settings(deadline=None)
@given(
    st.lists(st.one_of(any_text, st.sampled_from(["<0x0A>", "<0xd0>", "<0x9F>", "\u2581"])), max_size=8), st.booleans()
)
@example(["a", "<0x", "0A>"], True)
@example(["<0xD0>", "<0x9f>"], True)
def test_markers_become_their_characters(parts, split):
    """However a marker is split into tokens, clients see the newline or space that it spells."""
    text = "".join(parts)
    ids = bytewise(CONVERTED, text) if split else encode(CONVERTED, text)
    pieces, _ = run(CONVERTED_TABLE, ids)
    assert "".join(pieces) == cleaned(text)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["<0x0A>", "<0x", "0A", ">", "\u2581", "and", "\u2581and", "<", "0"]), max_size=12))
@pytest.mark.slow
def test_no_piece_ever_shows_a_marker(parts):
    """At no point of a stream has a client seen a whole marker."""
    ids = [token_id for part in parts for token_id in encode(CONVERTED, part)]
    pieces, _ = run(CONVERTED_TABLE, ids)
    shown = "".join(pieces)
    assert "<0x0A>" not in shown
    assert "\u2581" not in shown


@pytest.mark.parametrize("tail", ["<", "<0", "<0x", "<0x0", "<0x0A"])
def test_the_start_of_a_marker_at_the_end_is_shown(tail):
    """Text that only looks like the start of a marker is kept."""
    pieces, _ = run(CONVERTED_TABLE, bytewise(CONVERTED, "x" + tail))
    assert "".join(pieces) == "x" + tail


def test_markers_and_stop_strings_together():
    """Stop strings are matched in the cleaned text."""
    pieces, detokenizer = run(CONVERTED_TABLE, bytewise(CONVERTED, "a<0x0A>b"), ("\nb",))
    assert "".join(pieces) == "a"
    assert detokenizer.stopped


def test_a_vocabulary_without_bytes_is_text():
    """The tokens of a tokenizer without a byte-level decoder are used as spelled."""
    tokenizer = Tokenizer(models.WordLevel({"é": 0, "ab": 1}, unk_token="é"))
    assert "".join(run(TokenTable.of(tokenizer), [0, 1])[0]) == "éab"


@settings(deadline=None)
@given(st.lists(any_text, max_size=3), st.booleans())
@example(["I", " a"], False)
@example(["", " "], False)
def test_a_sentencepiece_vocabulary_gives_its_own_decoders_text(parts, special):
    """Space marks and bytes are decoded as by the tokenizer's decoder, which drops the first space."""
    tokenizer = sentencepiece_tokenizer()
    ids = [token_id for part in parts for token_id in tokenizer.encode(part).ids]
    if special:
        ids.insert(0, tokenizer.token_to_id("<|im_end|>"))
    pieces, _ = run(TokenTable.of(tokenizer), ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)


@settings(max_examples=30, deadline=None)
@given(ids_of)
def test_a_converted_table_agrees_with_decode_but_for_markers(ids):
    """Cleaning does not change text without markers."""
    text = PLAIN.decode(ids, skip_special_tokens=True)
    table = TokenTable.of(PLAIN, cleans=True)
    if "<" not in text and "\u2581" not in text:
        assert "".join(run(table, ids)[0]) == text


def cleaned(text):
    """Clean a whole text at once, with a simple reference implementation."""
    out, data = bytearray(), text.encode()
    while data:
        if data.startswith(b"<0x") and data[5:6] == b">" and all(c in b"0123456789abcdefABCDEF" for c in data[3:5]):
            out, data = out + bytes.fromhex(data[3:5].decode()), data[6:]
        elif data.startswith("\u2581".encode()):
            out, data = out + b" ", data[3:]
        else:
            out, data = out + data[:1], data[1:]
    return out.decode("utf-8", "replace")


def test_a_literal_table_shows_each_token_as_it_is_alone():
    """Tokens that together spell a marker stay what they spell, as a grammar has read them."""
    table = TokenTable([b"<0x0A>", b"<0x", b"0A>", "\u2581a".encode(), b"\xe2", b"\x96\x81", b"<0xE2>"], cleans=True)
    assert text_of(table, [1, 2, 4, 5]) == "\n "
    assert text_of(table.literal, [1, 2, 4, 5]) == "<0x0A>\u2581"
    assert text_of(table.literal, [0, 3]) == "\n a"
    assert table.literal.pieces[6] == b"\xe2"


def test_a_literal_table_of_a_plain_vocabulary_is_the_same():
    """Nothing is kept twice."""
    table = TokenTable([b"a"], cleans=False)
    assert table.literal is table


def text_of(table, ids):
    """Return the text of some tokens."""
    detokenizer = Detokenizer(table)
    return "".join(detokenizer.add(token) for token in ids) + detokenizer.flush()
