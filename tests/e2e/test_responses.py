"""OpenAI's client over the Responses API, against a real Gunicorn with the demo models."""

import base64
import json

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from tests.fakes import image_bytes

pytestmark = pytest.mark.slow

HELLO = "Привет! Напиши объявление о продаже велосипеда."
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Listing(BaseModel):
    """What an answer of a schema is parsed into."""

    title: str = Field(max_length=20)
    price: int = Field(ge=1, le=99999)


@pytest.fixture(scope="module")
def client(demo_server):
    """The client as a user makes it, without retries, so that every failure is seen."""
    key = "none"  # pragma: allowlist secret
    with openai.OpenAI(base_url=f"http://127.0.0.1:{demo_server.port}/v1", api_key=key, max_retries=0) as client:
        yield client


def respond(client, **fields):
    """Request a short answer from Avibe."""
    return client.responses.create(**({"model": "avibe", "input": HELLO, "max_output_tokens": 24} | fields))


def test_a_text_is_answered_and_streamed_alike(client):
    """Greedy, the deltas are the whole answer, in more than one piece; the last event has the usage."""
    whole = respond(client, temperature=0)
    assert whole.output_text
    events = list(respond(client, temperature=0, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 1
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens


def test_an_answer_at_its_limit_is_incomplete(client):
    """After one token."""
    cut = respond(client, max_output_tokens=1)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.usage.output_tokens == 1


def test_log_probabilities_come_with_every_token(client):
    """Joined, the tokens are the text, whole and streamed."""
    fields = {"temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    part = respond(client, **fields).output[0].content[0]
    assert "".join(token.token for token in part.logprobs) == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    events = list(respond(client, **fields, stream=True))
    streamed = [token for event in events if event.type == "response.output_text.delta" for token in event.logprobs]
    assert [token.token for token in streamed] == [token.token for token in part.logprobs]


def test_an_image_is_read(client):
    """As a data URL, by Avision."""
    url = f"data:image/png;base64,{base64.b64encode(image_bytes('red')).decode()}"
    parts = [{"type": "input_image", "image_url": url, "detail": "auto"}, {"type": "input_text", "text": "What?"}]
    seen = respond(client, model="avision", input=[{"role": "user", "content": parts}])
    assert seen.output_text
    assert seen.model == "avision-demo"


def test_an_answer_is_parsed_into_its_class(client):
    """By `parse`, and by `stream` with the same class."""
    fields = {"model": "avibe", "input": HELLO, "text_format": Listing, "max_output_tokens": 200}
    assert isinstance(client.responses.parse(**fields).output_parsed, Listing)
    with client.responses.stream(**fields) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Listing)


def test_a_forced_call_follows_its_schema_and_goes_on(client):
    """By name or required, whole and streamed; its result is read in a request that begins with the output."""
    for choice in ("required", {"type": "function", "name": "get_weather"}):
        called = respond(client, tools=[WEATHER], tool_choice=choice, max_output_tokens=200)
        call = called.output[0]
        assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
        jsonschema.validate(json.loads(call.arguments), WEATHER["parameters"])
    fields = {"model": "avibe", "input": HELLO, "tools": [WEATHER], "tool_choice": "required"}
    with client.responses.stream(**fields, max_output_tokens=400) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == "".join(item.arguments for item in final.output)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 20}'}
    items = [{"role": "user", "content": HELLO}, *called.output, result]
    assert respond(client, input=items, tools=[WEATHER]).output


def test_tools_need_not_be_called(client):
    """`auto` leaves the choice to the model, `none` hides the tools from it."""
    plain = respond(client, temperature=0)
    hidden = respond(client, temperature=0, tools=[WEATHER], tool_choice="none")
    shown = respond(client, temperature=0, tools=[WEATHER])
    assert hidden.usage.input_tokens == plain.usage.input_tokens < shown.usage.input_tokens


def test_the_tokens_of_an_input_are_counted_as_they_are_charged(client):
    """With instructions, tools and a stored conversation before it."""
    first = respond(client, store=True)
    asked = {"input": "Короче!", "instructions": "Be brief.", "tools": [WEATHER], "previous_response_id": first.id}
    counted = client.responses.input_tokens.count(model="avibe", **asked)
    assert counted.input_tokens == respond(client, **asked).usage.input_tokens


def test_a_conversation_is_stored(client):
    """Gone on from, shown, listed and deleted; the same as sending its items."""
    first = respond(client, temperature=0, store=True)
    stored = respond(client, temperature=0, input="Короче!", previous_response_id=first.id)
    turns = [{"role": "user", "content": HELLO}, *first.output, {"role": "user", "content": "Короче!"}]
    assert stored.output_text == respond(client, temperature=0, input=turns).output_text
    assert client.responses.retrieve(first.id) == first
    assert [item.content[0].text for item in client.responses.input_items.list(first.id)] == [HELLO]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
