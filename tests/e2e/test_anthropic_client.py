"""Anthropic's client against a real Gunicorn with the demo models: it works unchanged."""

import base64
import json

import anthropic
import jsonschema
import pytest
from pydantic import BaseModel, Field

from tests.fakes import image_bytes

pytestmark = pytest.mark.slow

NO_KEY = "none"  # the client insists on one, the service does not
HELLO = [{"role": "user", "content": "Привет! Напиши объявление о продаже велосипеда."}]
WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def claude(demo_server):
    """The client as a user makes it, without retries, so that every failure is seen."""
    address = f"http://127.0.0.1:{demo_server.port}"
    with anthropic.Anthropic(base_url=address, api_key=NO_KEY, max_retries=0) as client:
        yield client


def create(claude, **fields):
    return claude.messages.create(**({"model": "avibe", "max_tokens": 24, "messages": HELLO} | fields))


def greedy(claude, **fields):
    return create(claude, extra_body={"temperature": 0}, **fields)


def with_images(question, *colours):
    """Return a message with images of these colours."""
    sources = [
        {"type": "base64", "media_type": "image/png", "data": base64.b64encode(image_bytes(colour)).decode()}
        for colour in colours
    ]
    images = [{"type": "image", "source": source} for source in sources]
    return [{"role": "user", "content": [*images, {"type": "text", "text": question}]}]


def test_a_message_is_answered(claude):
    """Text, reason, usage, and the id of the request in the headers."""
    raw = claude.messages.with_raw_response.create(model="avibe-demo", max_tokens=8, messages=HELLO)
    answer = raw.parse()
    assert answer.id == f"msg_{raw.headers['request-id']}"
    assert (answer.model, raw.headers["x-model"]) == ("avibe-demo", "avibe-demo")
    assert answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert 0 < answer.usage.output_tokens <= 8


def test_a_stream_equals_the_whole_answer(claude):
    """With greedy decoding the message that the client puts together is the same; the text comes in pieces."""
    whole = greedy(claude, system="Be brief.")
    with claude.messages.stream(
        model="avibe", max_tokens=24, messages=HELLO, system="Be brief.", extra_body={"temperature": 0}
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_the_count_is_that_of_the_answer(claude):
    """Of a text, of tools, of images and of an answer that has begun."""
    cases = [
        {"messages": HELLO},
        {"messages": HELLO, "system": "Be brief.", "tools": [WEATHER]},
        {"messages": [*HELLO, {"role": "assistant", "content": "Продам"}]},
        {"model": "avision", "messages": with_images("Что тут?", "red", "blue")},
    ]
    for fields in cases:
        counted = claude.messages.count_tokens(**({"model": "avibe"} | fields)).input_tokens
        usage = create(claude, max_tokens=1, **fields).usage
        assert counted == usage.input_tokens + usage.cache_read_input_tokens


def test_an_answer_that_has_begun_is_continued(claude):
    """With what the model writes after these words of its own, which end where a token does."""
    whole = greedy(claude).content[0].text
    begun = whole[: whole.rindex(" ", 0, len(whole) // 2)]
    rest = greedy(claude, messages=[*HELLO, {"role": "assistant", "content": begun}]).content[0].text
    assert (begun + rest).startswith(whole)


def test_a_stop_sequence_ends_the_answer(claude):
    """It is named, and not part of the text."""
    whole = greedy(claude).content[0].text
    stop = whole[5:8]
    answer = greedy(claude, stop_sequences=["никогда", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert answer.content[0].text == whole[: whole.index(stop)]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_forced_call_is_made_and_its_result_read(claude, choice):
    """The arguments conform to the schema; the whole round works as the guide shows it."""
    first = create(claude, max_tokens=200, tools=[WEATHER], tool_choice=choice | {"disable_parallel_tool_use": True})
    calls = [block for block in first.content if block.type == "tool_use"]
    assert first.stop_reason == "tool_use"
    for call in calls:
        jsonschema.validate(call.input, WEATHER["input_schema"])
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "It is sunny."} for call in calls]
    said = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    assert create(claude, messages=said, tools=[WEATHER]).usage.output_tokens


def test_a_forced_call_is_streamed(claude):
    """The client puts its arguments together."""
    with claude.messages.stream(
        model="avibe", max_tokens=200, messages=HELLO, tools=[WEATHER], tool_choice={"type": "any"}
    ) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    jsonschema.validate(final.content[0].input, WEATHER["input_schema"])


def test_images_are_seen(claude):
    """Of a message and of the result of a call."""
    assert create(claude, model="avision", messages=with_images("Какого цвета?", "red", "blue")).content[0].text


class Listing(BaseModel):
    """A listing."""

    title: str = Field(max_length=20)
    price: int = Field(ge=1, le=99999)


def test_a_schema_is_followed(claude):
    """Sent by the client's own helper, and parsed by it."""
    schema = Listing.model_json_schema() | {"additionalProperties": False}
    form = {"format": {"type": "json_schema", "schema": schema}}
    answer = create(claude, max_tokens=200, output_config=form)
    assert answer.stop_reason == "end_turn"
    Listing.model_validate(json.loads(answer.content[0].text))


def test_a_prompt_that_does_not_fit_is_known_by_its_words(claude):
    """Agents shorten their conversation then; in the count as well."""
    long = [{"role": "user", "content": "слово " * 20_000}]
    for ask in (
        lambda: create(claude, messages=long),
        lambda: claude.messages.count_tokens(model="avibe", messages=long),
    ):
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            ask()
