"""What answers may be made of: forced calls, calls or a form, one call at most; letters are the tokens here."""

import json

import numpy as np
import pytest

from edge import turns
from engine.text.compile_queue import CompileQueue
from engine.text.grammar import Grammars
from engine.types import ModelInfo, Vocabulary
from engine.wanted import Wanted
from routes.chat import rewriting
from routes.chat.answer_format import AnswerFormat
from routes.chat.grammars import GrammarCache, new_mask
from routes.chat.names import FieldNames
from routes.chat.toolbox import FunctionTool, Toolbox
from tests.masks import bitmask_of
from tests.routes.test_openai import CHAT, HELLO, TOOL, ask, refused

END = 256
LETTERS = Vocabulary((*[bytes([code]) for code in range(256)], b""), frozenset({END}), lambda text: list(text.encode()))
CITY = {"type": "object", "properties": {"city": {"enum": ["Moscow", "Kazan"]}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
NAMED = {"type": "function", "function": {"name": "weather"}}
FORM = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["yes", "<tool_call>"]}}}
HARD = {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema"}}}
HARD_FORM = {"type": "json_schema", "json_schema": {"schema": HARD}}
REFUSED = {"type": "function", "function": {"name": "hard", "parameters": HARD}}
ANY = '{"anything": [1, null]}'


def call(arguments='{"city": "Kazan"}', name="weather"):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def matches(mask, text):
    """Return whether a mask allows each token of a text and its end there."""
    for token in [*text.encode(), END]:
        if not np.unpackbits(bitmask_of(mask).view(np.uint8), bitorder="little")[token]:
            return False
        mask.accept(token)
    return True


@pytest.fixture
def fits(client, avibe):
    """Return whether an answer to a request may be a text, None if it may be any."""
    avibe.tokens, avibe.finish_reason = LETTERS, "length"  # what is cut need not follow its form

    def fits(text, **fields):
        response = ask(client, **fields)
        assert response.status_code == 200, response.text
        mask = avibe.submitted[-1].sampling.token_mask
        if mask is None:
            return None
        return matches(mask, text)

    return fits


def test_a_forced_answer_consists_of_calls(fits):
    """Of any of the tools, or one of the named tool, each of its schema."""
    both = {"tools": [WEATHER, TOOL], "tool_choice": "required"}
    assert fits(call(), **both)
    assert fits(f"{call()}\n{call('{}', 'look')}", **both)
    for text in ("Hi", "", call('{"city": "Paris"}'), call(name="other"), f"{call()}!", call()[:-1]):
        assert not fits(text, **both)
    assert fits(call(), tools=[WEATHER, TOOL], tool_choice=NAMED)
    assert not fits(call("{}", "look"), tools=[WEATHER, TOOL], tool_choice=NAMED)
    assert not fits(f"{call()}\n{call()}", tools=[WEATHER], tool_choice=NAMED)


def test_a_forced_answer_has_one_call_if_calls_are_not_parallel(fits):
    """The grammar holds it."""
    one = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}
    assert fits(call(), **one)
    assert not fits(f"{call()}\n{call()}", **one)


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize(
    "form", [FORM, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": HARD}}]
)
def test_a_form_has_nothing_to_do_with_a_forced_call(fits, choice, form):
    """It is passed over, whatever it is."""
    assert fits(call(), tools=[WEATHER], tool_choice=choice, response_format=form)
    assert not fits('"yes"', tools=[WEATHER], tool_choice=choice, response_format=form)


@pytest.mark.parametrize("choice", [None, "auto"])
def test_a_free_answer_of_a_form_consists_of_calls_or_has_the_form(fits, choice):
    """And nothing else; calls conform to the schemas of their functions."""
    fields = {"tools": [WEATHER, TOOL], "tool_choice": choice, "response_format": FORM}
    for text in ('"yes"', '"<tool_call>"', call(), f"{call()}\n{call()}"):
        assert fits(text, **fields)
    for text in ("yes", "", f'{call()}\n"yes"', f'"yes"\n{call()}', call('{"city": "Paris"}'), call("{}", "other")):
        assert not fits(text, **fields)
    assert fits(call(), **fields, parallel_tool_calls=False)
    assert not fits(f"{call()}\n{call()}", **fields, parallel_tool_calls=False)


@pytest.mark.parametrize("fields", [{"tool_choice": NAMED, "tools": [TOOL, WEATHER]}, {"tool_choice": "required"}])
def test_a_forced_call_that_is_cut_has_its_name(client, avibe, fields):
    """And what there is of its arguments, nothing else; only where several can be called its name must be written."""
    avibe.tokens, avibe.finish_reason = LETTERS, "length"
    for length in (0, 1, 8, 20, 30, 50):
        avibe.text = call()[:length]
        (choice,) = ask(client, **{"tools": [WEATHER]} | fields).json["choices"]
        (shown,) = choice["message"]["tool_calls"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("length", None)
        assert shown["function"]["name"] == "weather"
        assert '{"city": "Kazan"}'.startswith(shown["function"]["arguments"])


def test_a_form_alone_is_what_no_calls_leave(fits):
    """`none` hides the tools."""
    fields = {"tools": [WEATHER], "tool_choice": "none", "response_format": FORM}
    assert fits('"yes"', **fields)
    assert not fits(call(), **fields)


def test_a_schema_that_cannot_be_followed_does_not_forbid_free_calls(fits):
    """Free calls of that function have any object; those of others still conform."""
    fields = {"tools": [WEATHER, REFUSED], "response_format": FORM}
    assert fits(call(ANY, "hard"), **fields)
    assert fits('"yes"', **fields)


def test_the_form_is_blamed_for_what_is_wrong_with_it(client, avibe):
    """Not the tools, and the tools where their calls are forced."""
    avibe.tokens = LETTERS
    response = ask(client, tools=[WEATHER], response_format=HARD_FORM)
    assert refused(response, 400, "validation_error")[1].startswith("response_format")
    response = ask(client, tools=[WEATHER, REFUSED], tool_choice="required")
    assert refused(response, 400, "validation_error")[1].startswith("tools")


def test_a_free_answer_may_be_anything(fits):
    """Without a form no grammar is needed, and none is compiled."""
    assert fits("", tools=[WEATHER]) is None
    assert fits("", tools=[WEATHER], tool_choice="none", parallel_tool_calls=False) is None
    assert fits("", parallel_tool_calls=False) is None
    assert fits("", tools=[WEATHER], parallel_tool_calls=False, ignore_eos=True) is None


def test_a_model_that_follows_no_grammar_is_not_refused_for_free_calls(client, avibe):
    """The first call alone is shown then."""
    avibe.text = call() + call()
    response = ask(client, tools=[WEATHER], parallel_tool_calls=False)
    assert len(response.json["choices"][0]["message"]["tool_calls"]) == 1


def test_a_free_answer_has_one_call_if_calls_are_not_parallel(fits):
    """Any text, which a call of one of the tools may end."""
    fields = {"tools": [WEATHER, TOOL], "parallel_tool_calls": False}
    assert fits("Any text: < <tool </tool_call>", **fields)
    assert fits("", **fields)
    assert fits(f"So.\n{call(ANY)}", **fields)
    assert fits(call(json.dumps({"at": call()}), "look"), **fields)
    for text in (f"{call()}\n{call()}", f"{call()} then", call("[]"), call(name="other"), "<tool_call>"):
        assert not fits(text, **fields)


def strict(tool, **function):
    return {"type": "function", "function": tool["function"] | {"strict": True} | function}


THOUGHT = "<think>\nA call is <tool_call>, and {} is JSON.\n</think>\n\n"
THINKS = {"chat_template_kwargs": {"enable_thinking": True}}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(
    ("before", "fields"),
    [("", {}), ("So.\n", {}), (THOUGHT, THINKS), ("", THINKS), ("So.", THINKS)],
)
def test_free_calls_of_a_strict_function_conform(fits, parallel, before, fields):
    """Those of others are any object; any text stays possible, and reasoning in which nothing is a call."""
    asked = {"tools": [strict(WEATHER), TOOL], "parallel_tool_calls": parallel, **fields}
    for text in ("Hi", "", call(), call(ANY, "look"), "< <tool </tool_call>"):
        assert fits(before + text, **asked)
    for text in (call('{"city": "Paris"}'), call("{}"), call("[]", "look"), call(name="other"), "<tool_call>"):
        assert not fits(before + text, **asked)
    assert fits(f"{before}{call()}\n{call(ANY, 'look')}", **asked) == parallel
    assert not fits(f"{before}{call()}\n{call('{}')}", **asked)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_second_thought_frees_no_call(fits, parallel):
    """Only what an answer begins with is reasoning; the parser may find more of it."""
    asked = {"tools": [strict(WEATHER)], "parallel_tool_calls": parallel, **THINKS}
    wrong = call('{"city": "Paris"}')
    for before in (f"{THOUGHT}<think>b</think>", f"{THOUGHT}So. <think>b</think>", "So. <think>b</think>"):
        assert fits(before + call(), **asked)
        assert not fits(before + wrong, **asked)
    assert not fits(f"{call()}<think>b</think>{wrong}", **asked)


def test_a_strict_function_conforms_beside_a_form(fits):
    """Also where the schemas of all tools together are too much for one grammar."""
    large = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 60_000}}}
    others = [{"type": "function", "function": {"name": f"f{number}", "parameters": large}} for number in range(5)]
    for tools in ([strict(WEATHER)], [strict(WEATHER), REFUSED], [strict(WEATHER), *others]):
        assert fits(call(), tools=tools, response_format=FORM)
        assert fits('"yes"', tools=tools, response_format=FORM)
        assert not fits(call('{"city": "Paris"}'), tools=tools, response_format=FORM)


@pytest.mark.parametrize("fields", [{}, {"response_format": FORM}, {"parallel_tool_calls": False}])
def test_a_strict_function_that_cannot_be_held_to_its_schema_is_refused(client, avibe, fields):
    """By its place; so are schemas that are too long together, and what no grammar goes on behind."""
    avibe.tokens = LETTERS
    response = ask(client, tools=[WEATHER, strict(REFUSED)], **fields)
    assert refused(response, 400, "validation_error")[1] == "tools[1].function.parameters"
    large = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 60_000}}}
    response = ask(
        client, tools=[strict(WEATHER, name=f"f{number}", parameters=large) for number in range(5)], **fields
    )
    assert refused(response, 400, "validation_error")[1] == "tools"
    response = ask(client, tools=[strict(WEATHER)], min_tokens=5, **fields)
    assert refused(response, 400, "validation_error")[1] == "min_tokens"
    assert ask(client, tools=[strict(REFUSED)], tool_choice="none").status_code == 200


@pytest.mark.parametrize("form", [FORM, {"type": "json_object"}])
@pytest.mark.parametrize("tools", [{}, {"tools": [WEATHER]}])
def test_reasoning_may_precede_a_form(fits, form, tools):
    """And need not; nothing else may."""
    asked = {"response_format": form, **tools, **THINKS}
    text = '"yes"' if form is FORM else '{"a": 1}'
    calls = [call()] if tools else []
    for good in (text, *calls):
        assert fits(good, **asked)
        assert fits(THOUGHT + good, **asked)
        assert fits(f"<think></think>{good}", **asked)
    for bad in ("", "Hi", f"Hi{text}", f"{THOUGHT}{text}!", f"{THOUGHT}Hi", "<think>Hi", f"{THOUGHT}{THOUGHT}{text}"):
        assert not fits(bad, **asked)
    assert not fits(THOUGHT + text, response_format=form, **tools)


def test_reasoning_in_front_of_a_form_is_shown_as_reasoning(client, avibe):
    """What follows is the content, whatever tags stand in it."""
    avibe.tokens, avibe.text = LETTERS, f'{THOUGHT}"<tool_call>"'
    message = ask(client, response_format=FORM, tools=[WEATHER], **THINKS).json["choices"][0]["message"]
    assert message["content"] == '"<tool_call>"'
    assert message["reasoning_content"] == "A call is\n, and {} is JSON."


def test_a_form_stands_beside_tools_of_any_size(fits):
    """The schemas of free calls are left out where they are too long together."""
    large = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 60_000}}}
    tools = [{"type": "function", "function": {"name": f"f{number}", "parameters": large}} for number in range(5)]
    assert fits(call(ANY, "f0"), tools=tools, response_format=FORM)
    assert fits('"yes"', tools=tools, response_format=FORM)


def test_stop_strings_do_not_cut_forced_calls(client, avibe):
    """They would be found in tags that no client knows of; free answers keep them."""
    avibe.tokens = LETTERS
    assert ask(client, tools=[WEATHER], tool_choice="required", stop=["\n"]).status_code == 200
    assert avibe.submitted[-1].sampling.stop == ()
    assert ask(client, tools=[WEATHER], stop=["\n"]).status_code == 200
    assert avibe.submitted[-1].sampling.stop == ("\n",)


def test_128_tools_can_be_forced(fits):
    """As many as OpenAI takes."""
    tools = [{"type": "function", "function": {"name": f"f{number}", "parameters": CITY}} for number in range(128)]
    assert fits(call(name="f127"), tools=tools, tool_choice="required")
    assert fits(call(name="f0"), tools=tools, response_format=FORM)


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ({"regex": "[0-9]{2}/[ab]"}, "12/a", "12/c"),
        ({"choice": ('"a"', "б\n")}, "б\n", "a"),
        ({"lark": 'start: A "!"\nA: /a+/'}, "aa!", "!"),
    ],
)
def test_every_form_can_stand_beside_calls(avibe, form, good, bad):
    """A pattern, texts to choose from and a grammar of the client's own, alone too."""
    avibe.tokens = LETTERS
    names, info = FieldNames(answer_format="form", reasoning="think"), ModelInfo("avibe", "avibe", False, False, 4096)
    for tools in ([], [FunctionTool("weather", None, CITY, "tools[0]")]):
        toolbox = Toolbox(tools, None, True, info, names)
        new = new_mask(AnswerFormat("form", **form), toolbox, names, avibe, GrammarCache(), Wanted(), "")
        for text, expected in ((good, True), (bad, False), (call(), bool(tools))):
            assert matches(new(), text) is expected


@pytest.mark.parametrize("tools", [[], [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]])
def test_a_grammar_that_is_too_large_to_be_kept_is_compiled_once_for_all_answers(client, avibe, monkeypatch, tools):
    """A compilation takes seconds; a form alone, and calls of which an answer has one."""
    avibe.tokens, avibe.finish_reason = LETTERS, "length"
    monkeypatch.setattr("engine.text.grammar.CACHED_BYTES", 0)
    compiled, submit = [], CompileQueue.submit
    monkeypatch.setattr(CompileQueue, "submit", lambda *of: compiled.append(of) or submit(*of))
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": 1}}}
    asked = {"tools": tools, "parallel_tool_calls": False} if tools else {"response_format": form}
    answer = client.post(CHAT, json={"model": "avibe", "messages": HELLO, "n": 3} | asked)
    assert (answer.status_code, len(compiled)) == (200, 1)
    masks = {id(one.sampling.token_mask) for one in avibe.submitted}
    assert len(masks) == 3


def test_a_grammar_is_compiled_in_the_turn_of_whom_its_request_is_charged_to(client, avibe, monkeypatch):
    """The account of a key, or an address."""
    avibe.tokens, avibe.finish_reason = LETTERS, "length"
    clients, submit = [], CompileQueue.submit

    def noted(queue, client, work):
        clients.append(client)
        return submit(queue, client, work)

    monkeypatch.setattr(CompileQueue, "submit", noted)
    for number, address in enumerate(("10.0.0.1", "10.0.0.2", "10.0.0.1")):
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": number}}}
        asked = {"model": "avibe", "messages": HELLO, "response_format": form}
        assert client.post(CHAT, json=asked, environ_base={"REMOTE_ADDR": address}).status_code == 200
    assert clients == [submitted.client for submitted in avibe.submitted]
    assert len(set(clients)) == 2


@pytest.mark.parametrize("fields", [{"response_format": FORM}, {"tools": [WEATHER], "tool_choice": "required"}])
def test_small_schemas_are_rewritten_in_the_turn_of_their_request(client, avibe, monkeypatch, fields):
    """Only a few requests at once may do so, since it takes the interpreter; compiling needs no turn."""
    avibe.tokens = LETTERS
    avibe.finish_reason = "length"
    order = []
    rewrite, masks = rewriting.outcome_of, Grammars.masks
    monkeypatch.setattr(rewriting, "outcome_of", lambda job: order.append("rewrite") or rewrite(job))
    monkeypatch.setattr(turns, "leave", lambda: order.append("leave"))
    monkeypatch.setattr(Grammars, "masks", lambda *given, **named: order.append("mask") or masks(*given, **named))
    assert ask(client, **fields).status_code == 200
    assert order[: order.index("mask") + 1] == ["rewrite", "leave", "mask"]
