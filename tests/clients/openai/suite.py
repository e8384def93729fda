"""openai-python: chats, completions and responses as its guide uses them, in both of its clients."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel, Field

NO_KEY = "none"  # the client insists on one, the service does not
ASK = [{"role": "user", "content": "Напиши объявление о продаже велосипеда."}]


class Listing(BaseModel):
    """A listing, as the model is to write it."""

    title: str = Field(max_length=20)
    price: int = Field(ge=1, le=99999)


class GetWeather(BaseModel):
    """Tells the weather of a city."""

    city: str = Field(max_length=12)


WEATHER = openai.pydantic_function_tool(GetWeather, name="get_weather")
NAMED = {"type": "function", "function": {"name": "get_weather"}}
FLAT = {"type": "function", **WEATHER["function"]}


@pytest.fixture(scope="module")
def client(base_url):
    """The client without retries, so that every failure is seen."""
    with openai.OpenAI(base_url=base_url, api_key=NO_KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def chat(client):
    """Requests a chat with defaults of these tests."""
    return lambda **fields: client.chat.completions.create(
        **{"model": "avibe", "messages": ASK, "max_tokens": 24} | fields
    )


@pytest.fixture
def respond(client):
    """Requests a response with defaults of these tests."""
    return lambda **fields: client.responses.create(
        **{"model": "avibe", "input": ASK[0]["content"], "max_output_tokens": 24} | fields
    )


def test_the_models_are_listed(client):
    """Pages of the list are followed to its end."""
    assert {"avibe", "avision"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("avibe").id == "avibe"


def test_a_chat_and_its_stream(chat, client):
    """The text, its usage, and the stream helper's final completion, which equals them."""
    whole = chat(temperature=0)
    fields = {"model": "avibe", "messages": ASK, "max_tokens": 24, "temperature": 0}
    with client.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage.total_tokens == whole.usage.total_tokens > 0


def test_a_conversation_of_the_clients_own_objects(chat):
    """An answer is sent back as the object that the client made of it, after system and developer messages."""
    answer = chat().choices[0].message
    rules = [{"role": "system", "content": "Be brief."}, {"role": "developer", "content": "In Russian."}]
    assert chat(messages=[*rules, *ASK, answer, {"role": "user", "content": "Короче!"}]).choices[0].message.content


def test_an_image(chat, image_url):
    """By Avision, with a detail."""
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": image_url, "detail": "low"}}]
    assert chat(model="avision", messages=[{"role": "user", "content": parts}]).choices[0].message.content


def test_an_answer_is_parsed(client):
    """Into the class, whole and streamed."""
    fields = {"model": "avibe", "messages": ASK, "response_format": Listing, "max_tokens": 200}
    assert isinstance(client.chat.completions.parse(**fields).choices[0].message.parsed, Listing)
    with client.chat.completions.stream(**fields) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Listing)


def test_a_round_with_a_tool(client):
    """The forced call is parsed, its message is sent back as it is, and the result is read; streamed too."""
    fields = {"model": "avibe", "tools": [WEATHER], "max_tokens": 200}
    one = client.chat.completions.parse(**fields, messages=ASK, tool_choice=NAMED, parallel_tool_calls=False)
    said = one.choices[0].message
    (call,) = said.tool_calls
    assert isinstance(call.function.parsed_arguments, GetWeather)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 20}'}
    after = client.chat.completions.create(**fields, messages=[*ASK, said, result], tool_choice="none")
    assert after.choices[0].message.content
    with client.chat.completions.stream(
        **fields, messages=ASK, tool_choice="required", parallel_tool_calls=False
    ) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert isinstance(done[0].parsed_arguments, GetWeather)


def test_tools_beside_a_form(client):
    """Free, the answer has the form or consists of calls; forced, it consists of calls."""
    fields = {"model": "avibe", "messages": ASK, "response_format": Listing, "tools": [WEATHER], "max_tokens": 200}
    free = client.chat.completions.parse(**fields).choices[0].message
    assert free.tool_calls or isinstance(free.parsed, Listing)
    forced = client.chat.completions.parse(**fields, tool_choice="required", parallel_tool_calls=False)
    assert forced.choices[0].message.tool_calls


def test_a_cut_answer_raises(client):
    """The client's own error for an answer that has no room for its form."""
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="avibe", messages=ASK, response_format=Listing, max_tokens=2)


def test_completions(client):
    """Whole, streamed, and with log probabilities."""
    fields = {"model": "avibe", "prompt": "Продаётся", "max_tokens": 6, "temperature": 0}
    whole = client.completions.create(**fields, logprobs=2)
    assert "".join(whole.choices[0].logprobs.tokens) == whole.choices[0].text
    assert "".join(event.choices[0].text for event in client.completions.create(**fields, stream=True))


def test_responses(respond, client):
    """Text and its stream, instructions, a class, and what `output_text` joins."""
    whole = respond(temperature=0, instructions="Be brief.")
    fields = {"model": "avibe", "input": ASK[0]["content"], "instructions": "Be brief."}
    with client.responses.stream(**fields, temperature=0, max_output_tokens=24) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == stream.get_final_response().output_text == whole.output_text
    assert isinstance(client.responses.parse(**fields, text_format=Listing).output_parsed, Listing)


def test_responses_with_a_tool(respond):
    """The output is sent back as the client's own objects, with the result of the call."""
    first = respond(tools=[FLAT], tool_choice="required", parallel_tool_calls=False, max_output_tokens=200)
    (call,) = [item for item in first.output if item.type == "function_call"]
    GetWeather.model_validate_json(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "20 degrees"}
    again = respond(input=[*ASK, *first.output, result], tools=[FLAT], tool_choice="none")
    assert again.output_text
    stored = respond(store=True, tools=[FLAT], tool_choice="required", parallel_tool_calls=False, max_output_tokens=200)
    (call,) = [item for item in stored.output if item.type == "function_call"]
    assert respond(previous_response_id=stored.id, input=[result | {"call_id": call.call_id}]).output_text


def test_responses_with_an_image(respond, image_url):
    """By Avision."""
    parts = [{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": image_url, "detail": "auto"}]
    assert respond(model="avision", input=[{"role": "user", "content": parts}]).output_text


def test_the_async_client(base_url):
    """Several requests at once, and a stream."""

    async def use():
        async with openai.AsyncOpenAI(base_url=base_url, api_key=NO_KEY, max_retries=0) as client:
            fields = {"model": "avibe", "messages": ASK, "max_tokens": 8, "temperature": 0}
            answers = await asyncio.gather(*(client.chat.completions.create(**fields) for _ in range(4)))
            stream = await client.chat.completions.create(**fields, stream=True)
            pieces = [event.choices[0].delta.content or "" async for event in stream]
        assert {answer.choices[0].message.content for answer in answers} == {"".join(pieces)}

    asyncio.run(use())


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError),
        ({"temperature": 3}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "слово " * 4000}]}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own(chat, fields, error):
    """With the service's code, whole and streamed."""
    for stream in (False, True):
        with pytest.raises(error) as caught:
            chat(**fields, stream=stream)
        assert caught.value.body["message"]


def test_raw_answers(client):
    """Headers and the body's JSON."""
    raw = client.chat.completions.with_raw_response.create(model="avibe", messages=ASK, max_tokens=4)
    assert raw.headers["x-request-id"]
    assert json.loads(raw.text)["object"] == "chat.completion"
