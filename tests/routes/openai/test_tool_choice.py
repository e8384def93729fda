"""The spellings of a choice of tools, which mean the same in every protocol of OpenAI's."""

import pytest

from routes.openai.tool_choice import usual

NESTED, BESIDE = {"type": "function", "function": {"name": "look"}}, {"type": "function", "name": "look"}


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("word", ["none", "auto", "required"])
def test_a_word_may_stand_in_an_object(word, nested):
    """As other services have it; `any` is required."""
    assert usual(word, nested) == usual({"type": word}, nested) == word
    assert usual("any", nested) == usual({"type": "any"}, nested) == "required"


def test_a_name_stands_where_the_protocol_has_it():
    """Whichever of the two the client writes."""
    for spelling in (NESTED, BESIDE):
        assert usual(spelling, nested=True) == NESTED
        assert usual(spelling, nested=False) == BESIDE


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("wrong", [5, None, [], {}, {"type": "function"}, {"type": "x"}, {"type": ["none"]}])
def test_what_is_wrong_is_left_to_be_refused(wrong, nested):
    """As the client wrote it, so that the refusal names the right field."""
    assert usual(wrong, nested) == wrong
