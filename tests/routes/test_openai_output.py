"""Answers taken apart: whatever is fed in, in whatever pieces, comes out the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routes.openai.output import Call, Content, OutputParser, Reasoning

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'


def parts(text, cuts=(), tools=("look",), thinks=False):
    """Feed a text in pieces; return thoughts, content and calls."""
    parser = OutputParser(frozenset(tools), thinks)
    edges = [0, *sorted(cuts), len(text)]
    found = [part for start, end in zip(edges, edges[1:], strict=False) for part in parser.feed(text[start:end])]
    found += parser.finish()
    return (
        "".join(part.text for part in found if isinstance(part, Reasoning)),
        "".join(part.text for part in found if isinstance(part, Content)),
        [(part.name, json.loads(part.arguments)) for part in found if isinstance(part, Call)],
    )


@pytest.mark.parametrize(
    ("text", "thinks", "expected"),
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
def test_an_answer_is_taken_apart_the_same_however_it_comes(text, thinks, expected):
    """Whole, and letter by letter."""
    whole = parts(text, thinks=thinks)
    assert parts(text, range(1, len(text)), thinks=thinks) == whole
    assert whole == (expected or ("", text, []))


@given(text=st.text(alphabet='<>/tool_calhink{}":a \n', max_size=60), data=st.data(), thinks=st.booleans())
def test_no_letter_is_lost_and_no_cut_matters(text, data, thinks):
    """Text without a whole call comes out as it went in, less the marks of a thought."""
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert parts(text, cuts, thinks=thinks) == parts(text, thinks=thinks)
    if not thinks and "</tool_call>" not in text:
        assert parts(text, cuts) == ("", text, [])


def test_without_tools_nothing_is_held_back():
    """Blanks and angle brackets come at once."""
    parser = OutputParser(frozenset(), False)
    assert parser.feed("a <tool_call> ") == [Content("a <tool_call> ")]
    assert parser.finish() == []


def test_ids_of_calls_differ():
    """Each call can be answered by its own."""
    parser = OutputParser(frozenset({"look"}), False)
    first, second = parser.feed(CALL + CALL)
    assert first.id != second.id
    assert first.id.startswith("call_")
