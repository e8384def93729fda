"""litellm: chats, completions, responses and messages, by its providers that take an address."""

import asyncio
import json
from typing import Literal

import litellm
import pytest
from pydantic import BaseModel

NO_KEY = "none"  # the client insists on one, the service does not
ASK = [{"role": "user", "content": "Напиши объявление о продаже велосипеда."}]
WAIT = asyncio.new_event_loop().run_until_complete
litellm.telemetry = False


class Listing(BaseModel):
    """A listing."""

    condition: Literal["new", "used"]
    price: int


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Moscow", "Kazan"]}}, "required": ["city"]},
    },
}


@pytest.fixture(params=["openai", "hosted_vllm", "anthropic"])
def complete(request, address, base_url):
    """`completion` with one of the providers that take an address, by the name of a model."""
    where = address if request.param == "anthropic" else base_url

    def complete(model="avibe", **fields):
        given = {"messages": ASK, "max_tokens": 24, "num_retries": 0} | fields
        return litellm.completion(model=f"{request.param}/{model}", api_base=where, api_key=NO_KEY, **given)

    return complete


def test_a_text_and_its_stream(complete):
    """With its usage; greedy, the pieces are the text."""
    whole = complete(temperature=0)
    assert whole.usage.completion_tokens > 0
    pieces = list(complete(temperature=0, stream=True, stream_options={"include_usage": True}))
    said = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert said == whole.choices[0].message.content
    assert litellm.stream_chunk_builder(pieces).usage.completion_tokens > 0


def test_a_conversation_of_its_own_objects(complete):
    """A message as the library made it, with the fields that it adds."""
    said = complete().choices[0].message
    for again in (said, said.model_dump(), dict(said)):
        turns = [{"role": "system", "content": "Be brief."}, *ASK, again, {"role": "user", "content": "Короче!"}]
        assert complete(messages=turns).choices[0].message.content is not None


def test_an_object(complete):
    """Of a class."""
    made = complete(response_format=Listing, max_tokens=300)
    Listing.model_validate_json(made.choices[0].message.content)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_round_with_a_tool(complete, choice):
    """The forced call, whole and streamed; its message goes back with a result."""
    asked = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 300, "parallel_tool_calls": False}
    message = complete(**asked).choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Moscow", "Kazan")
    result = {"role": "tool", "tool_call_id": call.id, "name": "get_weather", "content": "20 degrees"}
    assert complete(messages=[*ASK, message, result], tools=[WEATHER], max_tokens=24).choices[0].message
    built = litellm.stream_chunk_builder(list(complete(**asked, stream=True)))
    assert json.loads(built.choices[0].message.tool_calls[0].function.arguments)["city"] in ("Moscow", "Kazan")


def test_an_image(complete, image_url):
    """By Avision."""
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": image_url}}]
    assert complete("avision", messages=[{"role": "user", "content": parts}]).choices[0].message.content


def test_errors_are_the_librarys_own(complete):
    """By their kind; a prompt that is too long is known as such."""
    with pytest.raises(litellm.NotFoundError):
        complete("gpt-4o")
    with pytest.raises(litellm.ContextWindowExceededError):
        complete(messages=[{"role": "user", "content": "слово " * 4000}])


def test_text_completions(base_url):
    """Over /v1/completions."""
    made = litellm.text_completion(
        model="text-completion-openai/avibe", prompt="Продаётся", max_tokens=6, api_base=base_url, api_key=NO_KEY
    )
    assert made.choices[0].text


def test_responses(base_url):
    """Whole, streamed, with a tool and in a class."""
    fields = {"model": "openai/avibe", "api_base": base_url, "api_key": NO_KEY, "max_output_tokens": 300}
    assert litellm.responses(input="Привет!", **fields).output[0].content[0].text
    events = [event.type for event in litellm.responses(input="Привет!", stream=True, **fields)]
    assert "response.output_text.delta" in events
    tool = {"type": "function", **WEATHER["function"]}
    called = litellm.responses(input="Погода?", tools=[tool], tool_choice="required", **fields)
    assert json.loads(called.output[0].arguments)["city"] in ("Moscow", "Kazan")
    made = litellm.responses(input="Продай.", text_format=Listing, **fields)
    Listing.model_validate_json(made.output[0].content[0].text)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_messages_of_anthropic(provider, address, base_url):
    """Over /v1/messages, and translated by the library to another protocol."""
    where = address if provider == "anthropic" else base_url
    fields = {"model": f"{provider}/avibe", "api_base": where, "api_key": NO_KEY, "max_tokens": 24, "messages": ASK}
    assert WAIT(litellm.anthropic_messages(**fields))["content"][0]["text"]


def test_the_async_function(base_url):
    """acompletion, several at once."""
    fields = {"model": "openai/avibe", "api_base": base_url, "api_key": NO_KEY, "messages": ASK, "max_tokens": 8}

    async def several():
        return await asyncio.gather(*(litellm.acompletion(**fields) for _ in range(3)))

    assert all(answer.choices[0].message.content for answer in WAIT(several()))
