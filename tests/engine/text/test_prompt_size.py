"""What cannot fit the context is refused by counting, whichever field of a prompt it stands in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ContextTooLong
from engine.text.prompt_size import LONGEST_TOKEN, VALUE, check_prompt_size
from engine.types import ChatPrompt, TextPrompt, TokensPrompt

CONTEXT = 8
MOST = CONTEXT * LONGEST_TOKEN
LONG = "x" * (MOST + 1)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def user(content):
    """Return a conversation of one message."""
    return ChatPrompt(({"role": "user", "content": content},))


def called(**changes):
    """Return a conversation with an earlier call."""
    call = CALL | {"function": CALL["function"] | {key: changes[key] for key in changes if key != "id"}}
    return ChatPrompt(({"role": "assistant", "content": "", "tool_calls": [call | {"id": changes.get("id", "1")}]},))


def tool(**function):
    """Return a conversation with a tool."""
    return ChatPrompt(user("hi").messages, tools=({"type": "function", "function": function},))


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt(LONG),
        user(LONG),
        user([{"type": "text", "text": LONG}]),
        user([{"type": "text", "text": LONG[: MOST // 2]}] * 2),
        user([{"type": "text", "text": ""}] * MOST),
        called(name=LONG),
        called(arguments=LONG),
        called(id=LONG),
        ChatPrompt(({"role": "tool", "content": "", "tool_call_id": LONG},)),
        tool(name=LONG),
        tool(name="f", description=LONG),
        tool(name="f", parameters={"title": LONG}),
        tool(name="f", parameters={LONG: 1}),
        tool(name="f", parameters={"enum": [1] * MOST}),
        tool(name="f", parameters={"enum": [None] * MOST}),
    ],
)
def test_every_field_counts(prompt):
    """Contents, names, ids, arguments, descriptions and schemas, keys and values, of strings or of many values."""
    with pytest.raises(ContextTooLong) as caught:
        check_prompt_size(prompt, CONTEXT)
    assert caught.value.param == ("prompt" if isinstance(prompt, TextPrompt) else "messages")


def test_what_could_fit_is_left_to_the_tokenizer():
    """A text of the longest tokens alone is not refused; token ids are counted as they are."""
    for prompt in (TextPrompt(LONG[:-1]), user(LONG[: MOST - 64]), tool(name="f"), TokensPrompt((1,) * 100)):
        check_prompt_size(prompt, CONTEXT)


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=9), inner, max_size=6),
    max_leaves=40,
)


@given(values)
def test_what_is_counted_is_rendered(value):
    """The count is a lower bound of what the value takes in a template, so nothing that fits is refused."""
    rendered = len(json.dumps(value, ensure_ascii=False)) + VALUE
    prompt = ChatPrompt((), tools=({"": value},))
    around = 3 * VALUE  # the lists and the object that hold it
    check_prompt_size(prompt, -(-(rendered + around) // LONGEST_TOKEN))
