"""The spellings of a choice of tools, which mean the same in every protocol of OpenAI's."""

import pytest

from routes.openai.tool_choice import usual
from tests.routes.test_openai import TOOL, ask, refused

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


SAID = {"mode": "required", "tools": [BESIDE]}
SAID_NESTED = {"mode": "required", "tools": [NESTED]}


@pytest.mark.parametrize(
    "spelling",
    [
        {"type": "allowed_tools", "allowed_tools": SAID_NESTED},
        {"type": "allowed_tools", "allowed_tools": SAID},
        {"type": "allowed_tools"} | SAID,
        {"type": "allowed_tools"} | SAID_NESTED,
    ],
)
def test_allowed_tools_stand_where_the_protocol_has_them(spelling):
    """As for one function: chats have an object of its own, responses have none."""
    assert usual(spelling, nested=True) == {"type": "allowed_tools", "allowed_tools": SAID_NESTED}
    assert usual(spelling, nested=False) == {"type": "allowed_tools"} | SAID


def test_a_chat_shows_only_the_allowed_tools(client, avibe):
    """As a response does; the others exist for another request."""
    jump = {"type": "function", "function": {"name": "jump"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NESTED]}}
    assert ask(client, tools=[TOOL, jump], tool_choice=allowed).status_code == 200
    assert [tool["function"]["name"] for tool in avibe.only.prompt.tools] == ["look"]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"mode": "auto"}, "tools"),
        ({"mode": "often", "tools": [NESTED]}, "mode"),
        ({"mode": "auto", "tools": []}, "tools"),
        ({"mode": "auto", "tools": [5]}, "tools[0]"),
        ({"mode": "auto", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"mode": "auto", "tools": [NESTED, {"type": "function", "function": {"name": "fly"}}]}, "tools[1]"),
    ],
)
def test_a_mistake_in_allowed_tools_is_named(client, said, field):
    """In either protocol, by the path that it has there."""
    choice = {"type": "allowed_tools", "allowed_tools": said}
    _, param = refused(ask(client, tools=[TOOL], tool_choice=choice), 400, "validation_error")
    assert param == f"tool_choice.allowed_tools.{field}"
    flat = {"type": "function", "name": "look"}
    body = {"model": "avibe", "input": "Hello", "tools": [flat], "tool_choice": {"type": "allowed_tools"} | said}
    _, param = refused(client.post("/v1/responses", json=body), 400, "validation_error")
    assert param == f"tool_choice.{field}"
