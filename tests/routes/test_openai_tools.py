"""Tool calls of /v1/chat/completions over a scripted model: whole answers and streams show the same."""

import json

import pytest

from engine.types import TokenLogprob
from tests.routes.test_openai import HELLO, TOOL, ask
from tests.routes.test_openai_streaming import deltas, started, stream

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "я", "n": [1, 2]}}\n</tool_call>'
BROKEN = '<tool_call>{"name": "look", "arguments": {"at": 1 '
TEXTS = [
    CALL,
    f"Wait.\n{CALL}\n{CALL}",
    CALL[:11],
    CALL[:20],
    CALL[:45],
    CALL[:-14],
    f"{CALL}\n{CALL[:45]}",
    '<tool_call>{"name": "look", "arguments": {"at": "</tool_call>"}}</tool_call>',
    '<tool_call>{"name": "look", "arguments": {"at": 1 2}}</tool_call>',
    '<tool_call>{"name": "look", "arguments": {"at": "\\ud83d", "n": [1e999, NaN]}}</tool_call>',
    '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
    "<tool_call>oh</tool_call> <tool",
]


def pushed(app, avibe, text, size, **fields):
    """Return the deltas and the finish reason of a stream whose text comes in pieces of so many letters."""
    run, response = started(app, avibe, tools=[TOOL], **fields)
    for start in range(0, len(text), size):
        avibe.push("mine", text[start : start + size], token_ids=(1,))
    avibe.text = ""
    avibe.finish("mine")
    sent = b"".join(response.events()).decode().split("\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in sent if event.startswith("data: {")]
    run.close()
    return deltas(events), events[-1]["choices"][0]["finish_reason"]


def joined(added):
    """Return the content and the calls that deltas make; each call begins with its name and empty arguments."""
    content, calls = "", []
    for delta in added:
        content += delta.get("content") or ""
        for part in delta.get("tool_calls", ()):
            if "id" in part:
                assert part["type"] == "function"
                assert part["function"]["arguments"] == ""
                assert part["index"] == len(calls)
                calls.append(dict(part["function"]))
            else:
                assert part["function"]["arguments"]
                calls[part["index"]]["arguments"] += part["function"]["arguments"]
    return content, calls


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_shows_what_the_whole_answer_shows(app, client, avibe, text, finish):
    """However the text is cut; `tool_calls` promises that every call is complete, and no tag is shown."""
    avibe.text, avibe.finish_reason = text, finish
    (choice,) = ask(client, tools=[TOOL]).json["choices"]
    message = choice["message"]
    whole = [call["function"] for call in message.get("tool_calls", ())]
    assert "tool_call>" not in (message["content"] or "")
    assert all(json.loads(one["arguments"]) for one in whole if choice["finish_reason"] == "tool_calls")
    for size in (1, 5, len(text)):
        content, calls = joined((shown := pushed(app, avibe, text, size))[0])
        assert (content, calls, shown[1]) == (message["content"] or "", whole, choice["finish_reason"])


def test_a_call_that_is_cut_has_its_name_and_the_beginning_of_its_arguments(client, avibe):
    """And the finish reason of the cut, in a stream too."""
    avibe.text, avibe.finish_reason = CALL[: CALL.index(': "я')], "length"
    (choice,) = ask(client, tools=[TOOL]).json["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "length")
    assert call["function"] == {"name": "look", "arguments": '{"at"'}
    _, events = stream(client, tools=[TOOL])
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert joined(deltas(events)) == ("", [call["function"]])


def test_a_call_that_a_stop_string_cuts_is_not_to_be_made(client, avibe):
    """The finish reason is that of an answer, so that no program makes half a call."""
    avibe.text = CALL[:45]
    assert ask(client, tools=[TOOL], stop="}").json["choices"][0]["finish_reason"] == "stop"


def test_arguments_are_sent_as_they_are_made(app, avibe):
    """One event for each piece of them."""
    added, reason = pushed(app, avibe, CALL, 10)
    arguments = [part["function"]["arguments"] for delta in added for part in delta.get("tool_calls", ())]
    assert len(arguments) > 3
    assert "".join(arguments) == '{"at": "я", "n": [1, 2]}'
    assert reason == "tool_calls"


def test_calls_are_shown_to_nobody_who_may_not_make_them(client, avibe):
    """After calls in the history a model may write more, without tools in the request too."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    result = {"role": "tool", "content": "x", "tool_call_id": "c1"}
    turns = [*HELLO, {"role": "assistant", "tool_calls": [call]}, result]
    avibe.text = f"So. {CALL}"
    for fields in ({"messages": turns}, {"tools": [TOOL], "tool_choice": "none"}):
        message = ask(client, **fields).json["choices"][0]["message"]
        assert "tool_calls" not in message
        assert message["content"] == 'So.\n{"name": "look", "arguments": {"at": "я", "n": [1, 2]}}'


def test_calls_that_are_not_parallel_are_one(client, avibe):
    """Whatever the model writes."""
    avibe.text = CALL + CALL
    assert len(ask(client, tools=[TOOL]).json["choices"][0]["message"]["tool_calls"]) == 2
    message = ask(client, tools=[TOOL], parallel_tool_calls=False).json["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1


def test_log_probabilities_come_with_the_parts_of_a_call(app, avibe):
    """Each once, with the event behind its token."""
    run, response = started(app, avibe, tools=[TOOL], logprobs=True)
    for number, letter in enumerate(CALL):
        avibe.push("mine", letter, token_ids=(1,), logprobs=(TokenLogprob(number, letter, -0.5),))
    avibe.text = ""
    avibe.finish("mine")
    sent = b"".join(response.events()).decode().split("\n\n")
    run.close()
    events = [json.loads(event.removeprefix("data: ")) for event in sent if event.startswith("data: {")]
    told = [event["choices"][0]["logprobs"]["content"] for event in events if event["choices"][0]["logprobs"]]
    assert "".join(token["token"] for tokens in told for token in tokens) == CALL
    assert joined(deltas(events))[1] == [{"name": "look", "arguments": '{"at": "я", "n": [1, 2]}'}]


def tokens(text):
    """Return the tokens of a text, one for each letter."""
    return [TokenLogprob(number, letter, -0.5, offset=number) for number, letter in enumerate(text)]


def told(choices):
    return "".join(one["token"] for choice in choices if choice["logprobs"] for one in choice["logprobs"]["content"])


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (CALL, CALL),
        (f"So. {CALL} And.", f"So. {CALL} And."),
        (CALL[:20], ""),
        (f"So. {CALL[:20]}", "So. "),
        (f"So. {CALL}{CALL[:15]}", f"So. {CALL}"),
        (CALL[:45], CALL[:45]),
        ("So.<tool_", "So."),
        ("<tool_call>oh</tool_call>!", "oh!"),
        ("So</tool_call>!", "So!"),
        (
            '<tool_call>{"name": "look", "arguments": {"at": 1 2}}</tool_call>So.',
            '<tool_call>{"name": "look", "arguments": {"at": 1 So.',
        ),
    ],
)
def test_log_probabilities_do_not_spell_what_is_hidden(app, client, avibe, text, shown, size):
    """A call without a name, a tag that is left out: in a stream as in a whole answer."""
    avibe.text, avibe.logprobs = text, tokens(text)
    assert told(ask(client, tools=[TOOL], logprobs=True).json["choices"]) == shown
    run, response = started(app, avibe, tools=[TOOL], logprobs=True)
    for at in range(0, len(text), size):
        avibe.push("mine", text[at : at + size], token_ids=(1,), logprobs=tuple(tokens(text)[at : at + size]))
    avibe.text, avibe.logprobs = "", []
    avibe.finish("mine")
    sent = b"".join(response.events()).decode().split("\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in sent if event.startswith("data: {")]
    run.close()
    assert told([choice for event in events for choice in event["choices"]]) == shown


def test_by_their_ids_all_tokens_are_told(client, avibe):
    """Who asks for ids reads the answer as the model wrote it."""
    avibe.text, avibe.logprobs = CALL[:20], tokens(CALL[:20])
    choices = ask(client, tools=[TOOL], logprobs=True, return_tokens_as_token_ids=True).json["choices"]
    assert told(choices) == "".join(f"token_id:{number}" for number in range(20))


def test_calls_beyond_the_first_are_not_spelled(client, avibe):
    """Where they are not shown."""
    avibe.text, avibe.logprobs = CALL + CALL, tokens(CALL + CALL)
    assert told(ask(client, tools=[TOOL], logprobs=True, parallel_tool_calls=False).json["choices"]) == CALL
