"""anthropic: messages as its guide uses them, in both of its clients."""

import asyncio
from typing import Literal

import anthropic
import pytest
from pydantic import BaseModel

NO_KEY = "none"  # the client insists on one, the service does not
ASK = [{"role": "user", "content": "Напиши объявление о продаже велосипеда."}]
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}


class Listing(BaseModel):
    """A listing; the client leaves bounds out of the schema that it sends, so there is none of a text."""

    condition: Literal["new", "used"]
    price: int


@pytest.fixture(scope="module")
def client(address):
    """The client without retries, so that every failure is seen."""
    with anthropic.Anthropic(base_url=address, api_key=NO_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def create(client):
    """Requests a message with defaults of these tests."""
    return lambda **fields: client.messages.create(**{"model": "avibe", "max_tokens": 24, "messages": ASK} | fields)


def test_the_models_are_listed(client):
    """Pages of the list are followed to its end."""
    assert {"avibe", "avision"} <= {model.id for model in client.models.list()}


def test_a_message_and_its_stream(create, client):
    """Text, usage, and the stream helper's final message, which equals them."""
    greedy = {"extra_body": {"temperature": 0}, "system": [{"type": "text", "text": "Be brief."}]}
    whole = create(**greedy)
    with client.messages.stream(model="avibe", max_tokens=24, messages=ASK, **greedy) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens > 0


def test_a_conversation_of_the_clients_own_objects(create):
    """An answer is sent back as the blocks that the client made of it."""
    said = create()
    turns = [*ASK, {"role": said.role, "content": said.content}, {"role": "user", "content": "Короче!"}]
    assert create(messages=turns).content


def test_images(create, image_base64):
    """In a message, and in the result of a call."""
    source = {"type": "base64", "media_type": "image/png", "data": image_base64}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": "What?"}]
    assert create(model="avision", messages=[{"role": "user", "content": parts}]).content[0].text


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_round_with_a_tool(create, client, choice):
    """A forced call, whole and streamed; its blocks are sent back with a result, which may be an error."""
    asked = {"tools": [WEATHER], "tool_choice": choice | {"disable_parallel_tool_use": True}, "max_tokens": 200}
    first = create(**asked)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert set(call.input) == {"city"}
    for failed in (False, True):
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is sunny.", "is_error": failed}
        turns = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        assert create(messages=turns, tools=[WEATHER]).stop_reason
    with client.messages.stream(model="avibe", messages=ASK, **asked) as stream:
        deltas = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert deltas
    assert set(final.content[0].input) == {"city"}


def test_an_answer_is_parsed(client):
    """Into the class, whole and streamed."""
    fields = {"model": "avibe", "max_tokens": 200, "messages": ASK, "output_format": Listing}
    assert isinstance(client.messages.parse(**fields).parsed_output, Listing)
    with client.messages.stream(**fields) as stream:
        assert isinstance(stream.get_final_message().parsed_output, Listing)


def test_tokens_are_counted(create, client):
    """As many as the answer's usage says."""
    counted = client.messages.count_tokens(model="avibe", messages=ASK, tools=[WEATHER]).input_tokens
    usage = create(tools=[WEATHER], max_tokens=1).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_the_runner_of_tools(client):
    """The beta helper calls the function and sends its result; it asks for a thread and does without one."""
    asked = []

    @anthropic.beta_tool
    def get_weather(city: Literal["Moscow", "Kazan"]) -> str:
        """Tell the weather."""
        asked.append(city)
        return "It is sunny."

    runner = client.beta.messages.tool_runner(
        model="avibe",
        max_tokens=200,
        messages=ASK,
        tools=[get_weather],
        max_iterations=2,
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert [message.stop_reason for message in runner] == ["tool_use", "tool_use"]
    assert len(asked) == 2


def test_the_async_client(address):
    """Several requests at once, and a stream."""

    async def use():
        async with anthropic.AsyncAnthropic(base_url=address, api_key=NO_KEY, max_retries=0) as client:
            fields = {"model": "avibe", "max_tokens": 8, "messages": ASK, "extra_body": {"temperature": 0}}
            answers = await asyncio.gather(*(client.messages.create(**fields) for _ in range(4)))
            async with client.messages.stream(**fields) as stream:
                text = await stream.get_final_text()
        assert {answer.content[0].text for answer in answers} == {text}

    asyncio.run(use())


@pytest.mark.parametrize(
    ("fields", "error", "kind"),
    [
        ({"model": "claude-opus-4"}, anthropic.NotFoundError, "not_found_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        (
            {"messages": [{"role": "user", "content": "слово " * 4000}]},
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
    ],
)
def test_errors_are_the_clients_own(create, fields, error, kind):
    """With Anthropic's type, whole and streamed."""
    for stream in (False, True):
        with pytest.raises(error) as caught:
            create(**fields, stream=stream)
        assert caught.value.body["error"]["type"] == kind
