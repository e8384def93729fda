"""The parser of answers: no tag becomes text, and the result does not depend on how the text is cut into pieces."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routes.chat import output
from routes.chat.output import CallArguments, CallBegin, CallEnd, Content, ExpectedOutput, OutputParser, ParsedAnswer

BEGIN, END = "<tool_call>", "</tool_call>"
tag_begin = output._tag_begin
CALL = f'{BEGIN}\n{{"name": "look", "arguments": {{"at": 1}}}}\n{END}'
MANY_KEYS = "{" + '"a": 1, ' * 20 + '"name": "look"}'
LOOK = ("look", '{"at": 1}', True)


def parts(text, cuts=(), reasoning=False, tools=("look",), expected=None):
    """Feed a text in pieces; return reasoning, content and calls."""
    parser = OutputParser(frozenset(tools), reasoning, expected or ExpectedOutput())
    edges = [0, *sorted(cuts), len(text)]
    found = [part for start, end in zip(edges, edges[1:], strict=False) for part in parser.feed(text[start:end])]
    answer = ParsedAnswer.of(found + parser.finish())
    return answer.reasoning, answer.content, [(call.name, call.arguments, call.complete) for call in answer.calls]


def in_any_pieces(text, **options):
    """Return the parts of a text, which are the same as a whole, letter by letter and in pieces of a few letters."""
    whole = parts(text, **options)
    for size in (1, 2, 3, 7):
        assert parts(text, range(size, len(text), size), **options) == whole
    return whole


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("plain", "plain", []),
        ("  plain \n", "  plain \n", []),
        ("if a <b> c </d>", "if a <b> c </d>", []),
        (CALL, "", [LOOK]),
        (f"So.\n{CALL}\n{CALL}\n", "So.", [LOOK, LOOK]),
        (f"So.\n{CALL}\nAnd then?", "So.\nAnd then?", [LOOK]),
        (f'{BEGIN}{{"name": "look"}}{END}', "", [("look", "{}", True)]),
        (f'{BEGIN}{{"arguments": {{"at":1}}, "name": "look"}}{END}', "", [LOOK]),
        (f'{BEGIN}{{"id": [1, {{}}], "name": "look", "arguments": {{"at": 1}}, "x": "}}"}}{END}', "", [LOOK]),
        (f'{BEGIN}{{"name": "l\\u006fok", "arguments": {{"at": 1}}}}', "", [LOOK]),  # without an end tag
        (f'{BEGIN}{{"name": "look", "arguments": {{"at": 1}}}}}}\n{END}!', "!", [LOOK]),  # a bracket too many
        (f'{BEGIN}{{"name": "look", "arguments": {{"at": 1}}, oh dear{END}!', "!", [LOOK]),
    ],
)
def test_calls_are_told_from_text(text, content, calls):
    """A call may stand anywhere, with its keys in any order."""
    assert in_any_pieces(text) == ("", content, calls)


@pytest.mark.parametrize("inner", [END, BEGIN, CALL, "</think>", "}", '\\"}}', "\\u003c/tool_call>"])
def test_arguments_may_contain_tags(inner):
    """In a string of the arguments a tag is text."""
    made = json.dumps({"at": inner}, ensure_ascii=False)
    _, content, [(_, arguments, complete)] = in_any_pieces(f'{BEGIN}{{"name": "look", "arguments": {made}}}{END}')
    assert (content, json.loads(arguments), complete) == ("", {"at": inner}, True)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (f"{BEGIN}broken{END}", "broken"),
        (f"{BEGIN}\n[1]\n{END}", "[1]"),
        (f"{BEGIN}{END}", ""),
        (f"a{BEGIN}{END}b", "a\nb"),
        (f"a {END} b", "a\n b"),
        ("<tool_response>\nx\n</tool_response>", "x"),
        (f'{BEGIN}{{"name": "other", "arguments": {{}}}}{END}', '{"name": "other", "arguments": {}}'),
        (f'{BEGIN}{{"name": 5}}{END}', '{"name": 5}'),
        (f'{BEGIN}{{"name": "look", "arguments": [1]}}{END}x', '{"name": "look", "arguments": [1]}\nx'),
        (f'{BEGIN}{{"name": "look", "arguments": "{{}}"}}{END}', '{"name": "look", "arguments": "{}"}'),
        (f'{BEGIN}{{"name" "look"}}{END}', '{"name" "look"}'),
        (f'{BEGIN}{{"arguments": {{"a" 1}}}}{END}', '{"arguments": {"a" 1}}'),
        (f"{BEGIN}```json\n{{}}\n```{END}", "```json\n{}\n```"),
        (f"{BEGIN}{MANY_KEYS}{END}", MANY_KEYS),
        (f"<{BEGIN}tool_call>", "<\ntool_call>"),
        (f"</{END}tool_call>", "</\ntool_call>"),
    ],
)
def test_what_is_no_call_is_content_without_the_tags(text, content):
    """Whether it is no JSON, not the JSON of a call, or a call of an unknown function."""
    assert in_any_pieces(text) == ("", content, [])


def test_a_tag_within_a_block_begins_a_call():
    """Nested tags are left out like any that have no partner."""
    assert in_any_pieces(f"{BEGIN}\n{CALL}\n{END}") == ("", "", [LOOK])
    assert in_any_pieces(f"{BEGIN}{BEGIN}x{END}{END}") == ("", "x", [])


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ('{"at": 1 2}', '{"at": 1'),
        ('{"at": }', '{"at": '),
        ('{"at": "x" "y"}', '{"at": "x"'),
        ("{at: 1}", "{"),
        ('{"at": 01}', '{"at": '),
        ('{"at": [}', '{"at": ['),
    ],
)
def test_a_call_that_stops_being_json_is_incomplete(made, shown):
    """What has been sent cannot be taken back; the rest of the block is passed over, the text behind it is not."""
    text = f'{BEGIN}{{"name": "look", "arguments": {made}}}{END}after{CALL}'
    assert in_any_pieces(text) == ("", "after", [("look", shown, False), LOOK])


@pytest.mark.parametrize("forced", [False, True])
def test_a_cut_answer_never_shows_a_tag(forced):
    """At whatever letter it ends: before the name is known there is no call, behind it the call is incomplete."""
    text = CALL + "\n" + CALL
    for length in range(len(text)):
        _, content, calls = in_any_pieces(text[:length], expected=ExpectedOutput(forced=forced))
        assert content == ("<" if length == 1 and not forced else "")
        for name, arguments, complete in calls:
            assert name == "look"
            assert complete == (arguments == '{"at": 1}')
            assert '{"at": 1}'.startswith(arguments)


def test_the_name_of_a_cut_call_is_shown_without_arguments():
    """The client is told which function was being called."""
    assert in_any_pieces(f'{BEGIN}\n{{"name": "look", "argum') == ("", "", [("look", "", False)])
    assert in_any_pieces(f'{BEGIN}\n{{"name": "loo') == ("", "", [])


@pytest.mark.parametrize("length", range(45))
def test_a_forced_call_of_the_only_function_is_shown_wherever_it_is_cut(length):
    """Its name is known from the beginning."""
    expected = ExpectedOutput(forced=True, sole="look")
    assert in_any_pieces(CALL[:length], expected=expected) == (
        "",
        "",
        [("look", '{"at": 1}'[: max(0, length - CALL.index('{"at'))], False)],
    )


def test_a_beginning_of_a_tag_at_the_end_of_an_answer_is_left_out():
    """A single character is rather a sign of the text."""
    assert in_any_pieces("a < b <tool") == ("", "a < b", [])
    assert in_any_pieces("a < b </") == ("", "a < b", [])
    assert in_any_pieces("a <") == ("", "a <", [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>Hm.</think>\n\nYes.", ("Hm.", "Yes.", [])),
        (f"\n<think>\nHm.\n</think>\n\n{CALL}", ("Hm.", "", [LOOK])),
        ("<think>Hm", ("Hm", "", [])),
        ("<think>Hm</thi", ("Hm", "", [])),
        ("<th", ("", "", [])),
        ("Yes.", ("", "Yes.", [])),
        (f"<think>Use {BEGIN}x{END}.</think>Yes.", ("Use\nx\n.", "Yes.", [])),
        ("<think><think>Hm.</think>Yes.</think>", ("Hm.", "Yes.", [])),
        ("<think>a</think>b<think>c</think>d", ("a\nc", "b\nd", [])),
    ],
)
def test_reasoning_is_told_from_content(text, expected):
    """Only where it is switched on."""
    assert in_any_pieces(text, reasoning=True) == expected
    thoughts = text.replace(BEGIN, "").replace(END, "")
    assert in_any_pieces(thoughts, tools=()) == ("", thoughts, [])


def test_without_tools_nothing_is_held_back():
    """Blanks and angle brackets are returned at once."""
    parser = OutputParser(frozenset(), False)
    assert parser.feed("a <tool_call> ") == [Content("a <tool_call> ")]
    assert parser.finish() == []


def test_calls_that_may_not_be_made_are_content():
    """A model that was told of no tools may still write calls by habit."""
    body = '{"name": "look", "arguments": {"at": 1}}'
    assert in_any_pieces(f"So. {CALL}", tools=(), expected=ExpectedOutput(calls=True)) == ("", f"So.\n{body}", [])


def test_only_the_first_call_is_shown_if_calls_are_not_parallel():
    """Text is shown in any case."""
    assert in_any_pieces(f"a{CALL}{CALL}b", expected=ExpectedOutput(parallel=False)) == ("", "a\nb", [LOOK])


@pytest.mark.parametrize("text", ['{"a": "<tool_call>"}', '"</tool_call>"', "<", "<b>", " <tool_call>"])
def test_an_exclusive_text_has_no_tags(text):
    """An answer of a form consists of calls, or of a text that must stay what it is."""
    assert in_any_pieces(text, expected=ExpectedOutput(exclusive=True)) == ("", text, [])


def test_an_exclusive_answer_may_consist_of_calls():
    """Its first letters tell."""
    assert in_any_pieces(f"{CALL}\n{CALL}", expected=ExpectedOutput(exclusive=True)) == ("", "", [LOOK, LOOK])
    assert in_any_pieces("<tool_ca", expected=ExpectedOutput(exclusive=True)) == ("", "", [])


def test_arguments_are_returned_as_they_are_made():
    """The name first, then what of the arguments is certain with each piece."""
    parser = OutputParser(frozenset({"look"}), False)
    assert parser.feed(f'{BEGIN}\n{{"name": "look", "arguments": ') == []
    begin, first = parser.feed('{"at')
    assert (begin.index, begin.name, first) == (0, "look", CallArguments(0, '{"at'))
    assert parser.feed('": "я') == [CallArguments(0, '": "я')]
    assert parser.feed('"}') == [CallArguments(0, '"}')]
    assert parser.feed("}") == [CallEnd(0, complete=True)]
    assert parser.feed(f"\n{END}") == parser.finish() == []


def test_ids_of_calls_differ():
    """A result refers to one call."""
    parser = OutputParser(frozenset({"look"}), False)
    first, second = (part for part in parser.feed(CALL + CALL) if isinstance(part, CallBegin))
    assert (first.index, second.index) == (0, 1)
    assert first.id != second.id
    assert first.id.startswith("call_")


PIECES = [BEGIN, END, "<think>", "</think>", CALL[:-20], '{"name": "look", "arguments": ', '{"at": 1}', '"other"', "}"]
PIECES += ["{", "[", "]", ":", ",", '"', "\\", "\\ud83d", "1e999", "NaN", "true", "x", " ", "\n", "<", "</", "<to", "ё"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.data(), st.booleans(), st.booleans())
def test_any_text_is_parsed_the_same_in_any_pieces_and_shows_no_tag(pieces, data, reasoning, parallel):
    """Nor does it fail, and complete arguments are JSON."""
    text, options = "".join(pieces), {"reasoning": reasoning, "expected": ExpectedOutput(parallel=parallel)}
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    thought, content, calls = whole = parts(text, **options)
    assert parts(text, cuts, **options) == whole
    assert not any(tag in shown for tag in (BEGIN, END) for shown in (thought, content))
    assert all(isinstance(json.loads(arguments), dict) for _, arguments, complete in calls if complete)
    assert len(calls) <= 1 or parallel


def test_long_answers_are_parsed():
    """Without recursion, whatever a client makes a model write."""
    for text in (BEGIN * 3000, f'{BEGIN}{{"name": "look", "arguments": {{"at": "' + '\\n"' * 20000, "<" * 50000):
        in_any_pieces(text[: 20 * len(BEGIN)])
        parts(text)


@pytest.mark.parametrize("begin", ["", "So.", f"So.\n{CALL}", "<think>Well", "</tool_call>", BEGIN + "x"])
@pytest.mark.parametrize("end", ["", "!", CALL, "<", "<tool_", "</think>"])
def test_white_space_without_an_end_is_not_searched_again_with_each_token(monkeypatch, begin, end):
    """A client can have a model write it; the result is that of one piece, and what is settled stays so."""
    looks = []
    monkeypatch.setattr(output, "_tag_begin", lambda *args: looks.append(1) or tag_begin(*args))
    for space in ("\n", " " * 128):
        looks.clear()
        parser = OutputParser(frozenset({"look"}), False, ExpectedOutput())
        found, settled = parser.feed(begin), parser.settled
        for _ in range(500):
            found += parser.feed(space)
            assert settled <= parser.settled <= len(begin) + 500 * len(space)
            settled = parser.settled
        found += [*parser.feed(end), *parser.finish()]
        answer = ParsedAnswer.of(found)
        whole = parts(begin + space * 500 + end)
        calls = [(call.name, call.arguments, call.complete) for call in answer.calls]
        assert (answer.reasoning, answer.content, calls) == whole
        assert len(looks) < 30
