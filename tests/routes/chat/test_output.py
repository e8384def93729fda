"""The parser of answers: the result does not depend on how the text is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routes.chat.output import CallBegin, Content, OutputParser, ParsedAnswer

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'


def parts(text, cuts=(), tools=("look",), reasoning=False):
    """Feed a text in pieces; return reasoning, content and calls."""
    parser = OutputParser(frozenset(tools), reasoning)
    edges = [0, *sorted(cuts), len(text)]
    found = [part for start, end in zip(edges, edges[1:], strict=False) for part in parser.feed(text[start:end])]
    found += parser.finish()
    answer = ParsedAnswer.of(found)
    return answer.reasoning, answer.content, [(call.name, json.loads(call.arguments)) for call in answer.calls]


@pytest.mark.parametrize(
    ("text", "reasoning", "expected"),
    [
        ("plain", False, ("", "plain", [])),
        ("  plain \n", False, ("", "  plain \n", [])),
        (CALL, False, ("", "", [("look", {"at": 1})])),
        (f"So.\n{CALL}\n{CALL}\n", False, ("", "So.", [("look", {"at": 1})] * 2)),
        ('<tool_call>{"name": "look"}</tool_call>', False, ("", "", [("look", {})])),
        ("<tool_call>broken</tool_call>", False, ("", "<tool_call>broken</tool_call>", [])),
        ("<tool_call>[1]</tool_call>", False, ("", "<tool_call>[1]</tool_call>", [])),
        ('<tool_call>{"name": "other"}</tool_call>', False, ("", '<tool_call>{"name": "other"}</tool_call>', [])),
        ('<tool_call>{"name": "look", "arguments": 1}</tool_call>x', False, None),
        ('<tool_call>{"name": "lo', False, ("", '<tool_call>{"name": "lo', [])),
        ("a < b <tool", False, ("", "a < b <tool", [])),
        ("<think>Hm.</think>\n\nYes.", True, ("Hm.", "Yes.", [])),
        ("\n<think>\nHm.\n</think>\n\n" + CALL, True, ("Hm.", "", [("look", {"at": 1})])),
        ("<think>Hm", True, ("Hm", "", [])),
        ("<th", True, ("", "<th", [])),
        ("Yes.", True, ("", "Yes.", [])),
        ("<think>Hm.</think>Yes.", False, ("", "<think>Hm.</think>Yes.", [])),
    ],
)
def test_an_answer_is_parsed_the_same_in_any_pieces(text, reasoning, expected):
    """As a whole and letter by letter."""
    whole = parts(text, reasoning=reasoning)
    assert parts(text, range(1, len(text)), reasoning=reasoning) == whole
    assert whole == (expected or ("", text, []))


@given(text=st.text(alphabet='<>/tool_calhink{}":a \n', max_size=60), data=st.data(), reasoning=st.booleans())
def test_no_letter_is_lost_in_any_pieces(text, data, reasoning):
    """Text without a complete call is unchanged, apart from the tags of reasoning."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert parts(text, cuts, reasoning=reasoning) == parts(text, reasoning=reasoning)
    if not reasoning and "</tool_call>" not in text:
        assert parts(text, cuts) == ("", text, [])


def test_without_tools_nothing_is_held_back():
    """Blanks and angle brackets are returned at once."""
    parser = OutputParser(frozenset(), False)
    assert parser.feed("a <tool_call> ") == [Content("a <tool_call> ")]
    assert parser.finish() == []


def test_ids_of_calls_differ():
    """A result refers to one call."""
    parser = OutputParser(frozenset({"look"}), False)
    first, second = (part for part in parser.feed(CALL + CALL) if isinstance(part, CallBegin))
    assert first.id != second.id
    assert first.id.startswith("call_")
