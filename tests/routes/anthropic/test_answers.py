"""Answers of Anthropic's Messages API: whole messages, events of streams, why they ended, failures in between."""

import json

import pytest

from engine.errors import ModelError, Overloaded
from engine.types import ChatPrompt, SamplingParams
from routes.anthropic.answer import PING, MessageResponse
from routes.anthropic.block_events import BlockEvents
from routes.chat.output import CallArguments, CallBegin, CallEnd, Content, Reasoning
from routes.chat.task import ChatRun
from routes.generation_run import Run

MESSAGES = "/v1/messages"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "look", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "the sea"}}\n</tool_call>'
ONE_CALL = "disable_parallel_tool_use"
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
USAGE = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 5,
}


def blocks_of(message):
    """Return the content of a message without the ids of its calls."""
    return [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]


def ask(client, **fields):
    body = {"model": "avibe", "messages": HELLO, "max_tokens": 8} | fields
    return client.post(MESSAGES, json=body, headers={"X-Request-ID": "mine"})


def whole(client, **fields):
    response = ask(client, **fields)
    assert response.status_code == 200, response.json
    return response.json


def events_in(text):
    """Return the objects of a stream's events; each is named by its type."""
    found = []
    for event in text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def stream(client, **fields):
    response = ask(client, stream=True, **fields)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["request-id"] == "mine"
    return events_in(response.text)


def put_together(events):
    """Return the message that a client makes of the events of a stream; check their order."""
    start, ping, *rest, delta, stop = events
    assert (start["type"], ping, stop) == ("message_start", {"type": "ping"}, {"type": "message_stop"})
    message, blocks = start["message"], []
    assert (message["content"], message["stop_reason"]) == ([], None)
    for event in rest:
        if event == {"type": "ping"}:
            continue
        kind, index = event["type"], event["index"]
        if kind == "content_block_start":
            assert index == len(blocks)
            blocks.append(event["content_block"] | {"open": True, "json": ""})
        elif kind == "content_block_delta":
            assert blocks[index]["open"]
            add(blocks[index], event["delta"])
        else:
            assert kind == "content_block_stop"
            assert blocks[index].pop("open")
    for block in blocks:
        assert "open" not in block
        arguments = block.pop("json")
        if block["type"] == "tool_use" and arguments:
            block["input"] = json.loads(arguments)
    assert delta.pop("type") == "message_delta"
    return message | delta["delta"] | {"content": blocks, "usage": delta["usage"]}


def add(block, delta):
    fields = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
    if delta["type"] == "input_json_delta":
        block["json"] += delta["partial_json"]
    else:
        block[fields[delta["type"]]] += delta[fields[delta["type"]]]


def without_ids(message):
    """Return a message whose calls have no ids, which are new in every answer."""
    for block in message["content"]:
        if block["type"] == "tool_use":
            assert block.pop("id")
    return message


def test_a_message_has_exactly_the_promised_fields(client):
    """Names and nesting are what Anthropic's clients read."""
    assert whole(client) == {
        "id": "msg_mine",
        "type": "message",
        "role": "assistant",
        "model": "avibe",
        "content": [{"type": "text", "text": "An answer."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


def test_an_answer_without_text_has_no_block(client, avibe):
    """Whole and streamed; it can be sent back."""
    avibe.text = ""
    assert whole(client)["content"] == []
    assert put_together(stream(client))["content"] == []


TEXTS = [
    ("An answer.", [{"type": "text", "text": "An answer."}], "end_turn"),
    (CALL, [{"type": "tool_use", "name": "look", "input": {"at": "the sea"}}], "tool_use"),
    (
        f"I look.\n{CALL}",
        [{"type": "text", "text": "I look."}, {"type": "tool_use", "name": "look", "input": {"at": "the sea"}}],
        "tool_use",
    ),
    (
        f"{CALL}\n{CALL}",
        [{"type": "tool_use", "name": "look", "input": {"at": "the sea"}}] * 2,
        "tool_use",
    ),
    (
        f"<think>\nHm.\n</think>\n\n{CALL}",
        [
            {"type": "thinking", "thinking": "Hm.", "signature": "msg_mine"},
            {"type": "tool_use", "name": "look", "input": {"at": "the sea"}},
        ],
        "tool_use",
    ),
    (
        "<think>\nHm.\n</think>\n\nYes.",
        [{"type": "thinking", "thinking": "Hm.", "signature": "msg_mine"}, {"type": "text", "text": "Yes."}],
        "end_turn",
    ),
]


@pytest.mark.parametrize(("text", "content", "reason"), TEXTS)
def test_an_answer_is_blocks(client, avibe, text, content, reason):
    """Reasoning, texts and calls, the same whole and put together from a stream."""
    avibe.text = text
    fields = {"tools": [TOOL]} | THINKING
    answer = without_ids(whole(client, **fields))
    assert (answer["content"], answer["stop_reason"]) == (content, reason)
    assert without_ids(put_together(stream(client, **fields))) == answer


@pytest.mark.parametrize(("said", "calls"), [({}, 2), ({ONE_CALL: False}, 2), ({ONE_CALL: True}, 1)])
def test_calls_beside_each_other_can_be_turned_off(client, avibe, said, calls):
    """A free choice allows them, unless it says otherwise."""
    avibe.text = f"{CALL}\n{CALL}"
    fields = {"tools": [TOOL], "tool_choice": {"type": "auto"} | said}
    for answer in (whole(client, **fields), put_together(stream(client, **fields))):
        assert [block["type"] for block in answer["content"]] == ["tool_use"] * calls


def test_tokens_of_the_prefix_cache_are_counted_apart(client, avibe):
    """What was read and what was found, whole and streamed."""
    avibe.cached_tokens = 3
    for answer in (whole(client), put_together(stream(client))):
        usage = answer["usage"]
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (4, 3)


def test_a_call_that_stopped_being_json_is_not_to_be_made(client, avibe):
    """The reason is that of an answer, whole and streamed."""
    avibe.text = '<tool_call>{"name": "look", "arguments": {"at": "the sea", oh}}</tool_call>'
    answer = whole(client, tools=[TOOL])
    assert (answer["content"][0]["input"], answer["stop_reason"]) == ({"at": "the sea"}, "end_turn")
    ends = [event["delta"] for event in stream(client, tools=[TOOL]) if event["type"] == "message_delta"]
    assert [end["stop_reason"] for end in ends] == ["end_turn"]


def test_hidden_reasoning_is_a_block_without_its_text(client, avibe):
    """As the client asks, whole and streamed."""
    avibe.text = "<think>\nHm.\n</think>\n\nYes."
    fields = {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}
    answer = whole(client, **fields)
    assert answer["content"][0] == {"type": "thinking", "thinking": "", "signature": "msg_mine"}
    assert put_together(stream(client, **fields)) == answer


@pytest.mark.parametrize(
    ("reason", "stop", "shown"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
    ],
)
def test_an_answer_says_why_it_ended(client, avibe, reason, stop, shown):
    """And which of the stop sequences ended it."""
    avibe.finish_reason, avibe.ended_by = reason, stop
    for answer in (whole(client), put_together(stream(client))):
        assert (answer["stop_reason"], answer["stop_sequence"]) == shown


def test_a_call_before_the_cut_is_no_reason(client, avibe):
    """An answer that was cut ends with max_tokens, whatever it held."""
    avibe.text, avibe.finish_reason = CALL, "length"
    assert whole(client, tools=[TOOL])["stop_reason"] == "max_tokens"
    assert put_together(stream(client, tools=[TOOL]))["stop_reason"] == "max_tokens"


def started(app, avibe):
    """Return an answer in the middle of its stream; `avibe` still holds it."""
    avibe.hold = True
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))])
        return run, MessageResponse(ChatRun(run, frozenset(), False), False)


def test_text_is_sent_as_it_comes(app, avibe):
    """One event for each piece, in one block."""
    run, response = started(app, avibe)
    events = response.events()
    assert b"message_start" in next(events)
    avibe.push("mine", "Well, ")
    first = events_in(next(events).decode())
    avibe.push("mine", "yes.")
    second = events_in(next(events).decode())
    assert [event["type"] for event in first] == ["content_block_start", "content_block_delta"]
    assert second == [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "yes."}}]
    run.close()


def test_an_idle_stream_is_kept_alive_by_pings(app, avibe):
    """While no piece comes; clients pass them over."""
    run, response = started(app, avibe)
    events = response.events(idle=0.001)
    next(events)
    assert next(events) == PING == b'event: ping\ndata: {"type":"ping"}\n\n'
    run.close()


@pytest.mark.parametrize(
    ("error", "kind"), [(ModelError("It failed."), "api_error"), (Overloaded("Too much.", 3), "overloaded_error")]
)
def test_a_failure_in_a_stream_is_its_last_event(app, avibe, error, kind):
    """Named `error`, in the shape of a refusal; no message_stop follows."""
    run, response = started(app, avibe)
    events = response.events()
    next(events)
    avibe.push("mine", "Well, ")
    next(events)
    avibe.fail("mine", error)
    (last,) = events_in(b"".join(events).decode())
    assert last == {
        "type": "error",
        "error": {"type": kind, "message": error.message},
        "request_id": "mine",
    }
    run.close()


def test_a_failure_before_the_first_event_is_a_status(client, avibe):
    """With the headers of any refusal."""
    avibe.refusal = Overloaded("Too much.", 3)
    response = ask(client, stream=True)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "3")
    assert response.json["error"] == {"type": "overloaded_error", "message": "Too much."}


def test_a_client_that_leaves_a_stream_ends_its_answer(app, avibe):
    """Closing the events aborts the generation."""
    run, response = started(app, avibe)
    events = response.events()
    next(events)
    events.close()
    run.close()
    avibe.wait_for(lambda backend: backend.aborted == ["mine"])


# --- blocks from parts, as a parser may give them ---

CUT = [CallBegin(0, "a", "look"), CallArguments(0, '{"at": "the'), CallEnd(0, False)]


def test_arguments_are_sent_as_they_are_made():
    """A block of its own for each call, with every piece an event."""
    parts = [
        Content("I look."),
        CallBegin(0, "a", "look"),
        CallArguments(0, '{"at": '),
        CallArguments(0, '"sea"}'),
        CallEnd(0, True),
        Content("Done."),
    ]
    blocks = BlockEvents("s", False)
    shown = events_in(b"".join([blocks.show([part]) for part in parts] + [blocks.close()]).decode())
    assert [(event["type"].removeprefix("content_block_"), event["index"]) for event in shown] == [
        *(("start", 0), ("delta", 0), ("stop", 0)),
        *(("start", 1), ("delta", 1), ("delta", 1), ("stop", 1)),
        *(("start", 2), ("delta", 2), ("stop", 2)),
    ]
    assert shown[3]["content_block"] == {"type": "tool_use", "id": "a", "name": "look", "input": {}}
    assert shown[5]["delta"] == {"type": "input_json_delta", "partial_json": '"sea"}'}


def test_a_block_that_is_cut_is_closed():
    """Reasoning with its signature, a call with what there is of its arguments."""
    blocks = BlockEvents("s", False)
    shown = events_in((blocks.show([Reasoning("Hm")]) + blocks.close() + blocks.show(CUT)).decode())
    assert [event["type"].removeprefix("content_block_") for event in shown] == [
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
    ]
    assert shown[2]["delta"] == {"type": "signature_delta", "signature": "s"}
    assert shown[5]["delta"]["partial_json"] == '{"at": "the'
    assert blocks.close() == b""


def test_text_and_calls_stand_in_the_order_in_which_they_came(client, avibe):
    """In a whole answer as in a stream; texts of one kind that follow each other are one block."""
    avibe.text = f"So.{CALL}And then:{CALL}"
    message = whole(client, tools=[TOOL])
    assert [block["type"] for block in message["content"]] == ["text", "tool_use", "text", "tool_use"]
    assert blocks_of(message) == blocks_of(put_together(stream(client, tools=[TOOL])))
