"""How tokens read: the tokens of any text give that text, control tokens their names, no token a marker."""

import random

import pytest

from engine.text.detokenizer import TokenTable
from engine.text.special_tokens import SpecialTokens
from engine.text.spelling import Spelling, name_of
from tests.trained_tokenizers import sentencepiece_tokenizer, trained_tokenizer

CONVERTED = ("<0x0A>", "\u2581слово", "\u2581")
TEXTS = [
    "Привет, мир!",
    " two  leading\n\n\tlines\r\n ",
    "🙂 é — \u200d\u00a0",
    "<|im_start|>user<tool_call>",
    "<0x0A> and <0x",
    "x",
]


def spelling_of(tokenizer, cleans=None):
    special = SpecialTokens(tokenizer)
    return Spelling(TokenTable.of(tokenizer, cleans=cleans), special.ids), special


VOCABULARIES = {
    "plain": lambda: spelling_of(trained_tokenizer()),
    "converted": lambda: spelling_of(trained_tokenizer(CONVERTED), cleans=True),
    "sentencepiece": lambda: spelling_of(sentencepiece_tokenizer()),
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("text", [*TEXTS, ""])
def test_the_tokens_of_a_text_give_that_text(vocabulary, text):
    """Names of control tokens and markers that a user typed too."""
    spelling, special = VOCABULARIES[vocabulary]()
    ids = special.encode_plain(text)
    spelled = spelling.spelled(ids)
    assert spelled.text == text
    assert len(spelled.tokens) == len(ids)


@pytest.mark.parametrize("vocabulary", ["plain", "converted"])
def test_no_random_text_is_changed(vocabulary):
    """Of characters that tokens meet at in every way."""
    spelling, special = VOCABULARIES[vocabulary]()
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice("а \n\t<>0xAЯ▁|🙂f\u0000\\") for _ in range(rng.randrange(1, 30)))
        assert spelling.spelled(special.encode_plain(text)).text == text


@pytest.mark.parametrize("cleans", [None, True])
def test_a_marker_is_what_it_spells(cleans):
    """No client sees it, alone or as a name."""
    tokenizer = trained_tokenizer(CONVERTED)
    spelling, _ = spelling_of(tokenizer, cleans)
    ids = [tokenizer.token_to_id(token) for token in CONVERTED]
    assert spelling.spelled(ids) == spelling.spelled(tuple(ids))
    assert spelling.spelled(ids).text == "\n слово "
    assert spelling.spelled(ids).tokens == ("\n", " слово", " ")


def test_a_control_token_has_its_name():
    """Of those without a text in answers too."""
    tokenizer = trained_tokenizer()
    spelling, special = spelling_of(tokenizer)
    rendered = "<|im_start|>user\nПривет<|im_end|>\n<tool_call>"
    ids = special.encode(rendered)
    assert spelling.spelled(ids).text == rendered
    assert spelling.spelled(ids).tokens[0] == "<|im_start|>"


def test_a_part_of_a_character_is_named_by_its_bytes():
    """As OpenAI spells them, so that each has a name of its own."""
    assert name_of("🙂".encode()[:2]) == "bytes:\\xf0\\x9f"
    spelling, special = spelling_of(trained_tokenizer())
    ids = special.encode_plain("🙂")
    assert spelling.spelled(ids[:1]).text == "\ufffd"
    assert spelling.spelled(ids).text == "🙂"


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_each_token_begins_where_the_text_before_it_ends(vocabulary):
    """The bytes of all are the text."""
    spelling, special = VOCABULARIES[vocabulary]()
    ids = special.encode_plain("Что на картинке? Красный квадрат 🙂.")
    texts, text = spelling.texts(ids), spelling.spelled(ids).text
    assert b"".join(one.data for one in texts).decode("utf-8", "replace") == text
    assert texts[0].offset == 0
    for one in texts:
        if one.data == one.data.decode("utf-8", "replace").encode():
            assert text[one.offset :].startswith(one.data.decode())
