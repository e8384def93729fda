"""Streams of POST /v1/responses: the sequence of events, as OpenAI's client and its types read them."""

import json
from itertools import pairwise

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from engine.errors import ModelError, Overloaded
from engine.types import TokenLogprob

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": None}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "я"}}\n</tool_call>'
BEGIN = ["response.created", "response.in_progress"]
MESSAGE = ["response.output_item.added", "response.content_part.added", "response.output_text.delta"]
MESSAGE_END = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
EVENT = TypeAdapter(ResponseStreamEvent)


def events(client, **fields):
    """Return the events of a stream, each checked to be named by its type, numbered, and one of OpenAI's."""
    return parsed(client.post(PATH, json={"model": "avibe", "input": "Hello", "stream": True} | fields))


def parsed(response):
    """Return the events of a response as `events` does."""
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    found = []
    for block in response.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def kinds(found):
    return [event["type"] for event in found]


def test_a_text_has_the_sequence_that_clients_parse(client):
    """Created, in progress, the message and its part, deltas, all three done, completed; no [DONE]."""
    found = events(client)
    assert kinds(found) == [*BEGIN, *MESSAGE, *MESSAGE_END, "response.completed"]
    assert found[4]["delta"] == found[5]["text"] == found[6]["part"]["text"] == "An answer."
    assert {event["item_id"] for event in found[3:7]} == {found[2]["item"]["id"]}
    last = found[-1]["response"]
    Response.model_validate(last)
    assert last["output"] == [found[7]["item"]]
    assert last["usage"]["total_tokens"] == 12
    assert {event["response"]["id"] for event in (*found[:2], found[-1])} == {last["id"]}


def test_a_stream_ends_with_what_a_whole_answer_is(client, avibe):
    """The same object but for its ids and times, whatever is in it."""
    avibe.text = f"<think>Hm.</think>Wait.\n{CALL}"
    fields = {"tools": [TOOL], "reasoning": {"effort": "high"}, "metadata": {"a": "b"}}
    streamed = events(client, **fields)[-1]["response"]
    whole = client.post(PATH, json={"model": "avibe", "input": "Hello"} | fields).json

    ids = ("id", "call_id", "request_id")

    def without_ids(value):
        if isinstance(value, dict):
            return {k: without_ids(v) for k, v in value.items() if k not in ids and "_at" not in k}
        return [without_ids(one) for one in value] if isinstance(value, list) else value

    assert without_ids(streamed) == without_ids(whole)


def test_reasoning_message_and_call_follow_each_other(client, avibe):
    """Each item is done before the next is added; their indexes are those of the output."""
    avibe.text = f"<think>Hm.</think>Wait.\n{CALL}"
    found = events(client, tools=[TOOL], reasoning={"effort": "high"})
    assert kinds(found) == [
        *BEGIN,
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *MESSAGE,
        *MESSAGE_END,
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    indexes = [event["output_index"] for event in found if "output_index" in event]
    assert all(after - before in (0, 1) for before, after in pairwise(indexes))
    assert (indexes[0], indexes[-1]) == (0, 2)
    added, delta, done, finished = found[-5:-1]
    assert (added["item"]["arguments"], added["item"]["status"]) == ("", "in_progress")
    assert delta["delta"] == done["arguments"] == finished["item"]["arguments"] == '{"at": "я"}'
    assert [item["type"] for item in found[-1]["response"]["output"]] == ["reasoning", "message", "function_call"]


def test_the_pieces_of_an_answer_are_deltas(client, avibe):
    """In order, unescaped where JSON allows it; joined, they are the text."""
    avibe.text = 'Привет, "мир"\n\\'
    found = events(client)
    assert "".join(event["delta"] for event in found if event["type"] == MESSAGE[-1]) == avibe.text


def test_an_answer_at_its_limit_ends_incomplete(client, avibe):
    """The last event says so, and the item before it."""
    avibe.finish_reason = "length"
    found = events(client)
    assert kinds(found)[-2:] == ["response.output_item.done", "response.incomplete"]
    assert found[-2]["item"]["status"] == "incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_log_probabilities_come_with_their_text(client, avibe):
    """In the delta and in what is done; otherwise the lists are empty."""
    one = TokenLogprob(1, "An answer", -0.5, ((1, "An answer", -0.5),))
    avibe.hold, avibe.text = True, "."
    for include, tokens in ((["message.output_text.logprobs"], ["An answer"]), ([], [])):
        fields = {"model": "avibe", "input": "Hello", "stream": True, "include": include}
        response = client.post(PATH, json=fields, buffered=False)
        asked = avibe.submitted[-1]
        logprobs = (one,) if asked.sampling.logprobs is not None else ()
        avibe.push(asked.request_id, "An answer", token_ids=(1,), logprobs=logprobs)
        avibe.finish(asked.request_id)
        delta, last, done, part = parsed(response)[4:8]
        assert (delta["delta"], last["delta"], done["text"]) == ("An answer", ".", "An answer.")
        shown = [[token["token"] for token in one["logprobs"]] for one in (delta, last, done, part["part"])]
        assert shown == [tokens, [], tokens, tokens]


def test_a_failure_in_the_middle_ends_the_stream(client, avibe):
    """An `error` and the failed response; both are events, the second is the last."""
    avibe.failure = ModelError("It failed.")
    found = events(client)
    assert kinds(found) == [*BEGIN, "error", "response.failed"]
    assert (found[-2]["code"], found[-2]["message"], found[-2]["param"]) == ("model_error", "It failed.", None)
    assert found[-1]["response"]["error"] == {"code": "server_error", "message": "It failed."}
    assert found[-1]["response"]["status"] == "failed"
    assert found[-2]["request_id"] == found[-1]["response"]["request_id"] == avibe.submitted[-1].request_id


def test_what_fails_before_the_first_byte_has_its_status(client, avibe):
    """503 with Retry-After, and no stream; the request's place is free again."""
    avibe.refusal = Overloaded("The service is busy; try again later.", 7)
    response = client.post(PATH, json={"model": "avibe", "input": "Hello", "stream": True, "store": True})
    assert (response.status_code, response.mimetype, response.headers["Retry-After"]) == (503, "application/json", "7")
    assert avibe.stats().num_requests_running == 0


@pytest.mark.parametrize("text", ["An answer.", f"Wait.\n{CALL}"])
def test_the_clients_own_parser_follows_it(api, avibe, text):
    """It builds the same response from the events, with the call's arguments parsed."""
    avibe.text = text
    with api.responses.stream(model="avibe", input="Hello", tools=[TOOL], tool_choice="auto") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert said == final.output_text
    assert [item.type for item in final.output] == (["message", "function_call"] if "<" in text else ["message"])


def test_a_client_that_leaves_frees_its_place(client, avibe):
    """The answer is aborted, and so is what was to be stored."""
    avibe.hold = True
    response = client.post(PATH, json={"model": "avibe", "input": "Hello", "stream": True, "store": True})
    next(response.response)
    response.close()
    assert avibe.aborted == [avibe.only.request_id]
    assert "avito_ai_stored_responses_bytes 0.0" in client.get("/metrics").text
