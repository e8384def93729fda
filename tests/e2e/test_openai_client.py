"""OpenAI's client and LangChain's against a real Gunicorn with the demo models: they work unchanged."""

import base64
import json
from typing import Literal

import jsonschema
import openai
import pydantic
import pytest
from langchain_openai import ChatOpenAI
from tokenizers import Tokenizer

from tests.e2e.gunicorn_process import ROOT
from tests.fakes import image_bytes

pytestmark = pytest.mark.slow

NO_KEY = "none"  # the client insists on one, the service does not
HELLO = [{"role": "user", "content": "Привет! Напиши объявление о продаже велосипеда."}]
TOKENIZER = str(ROOT / "demo/avibe/tokenizer.json")
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 20},
        "price": {"type": "integer", "minimum": 1, "maximum": 99999},
        "tags": {"type": "array", "items": {"enum": ["new", "used"]}, "maxItems": 2},
    },
    "required": ["title", "price", "tags"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def schema_format(schema):
    """Return a response_format of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def with_images(question, *colours):
    """Return a message with images of these colours."""
    urls = [f"data:image/png;base64,{base64.b64encode(image_bytes(colour)).decode()}" for colour in colours]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


@pytest.fixture(scope="module")
def client(demo_server):
    """The client as a user makes it, without retries, so that every failure is seen."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{demo_server.port}/v1", api_key=NO_KEY, max_retries=0) as client:
        yield client


def chat(client, **fields):
    """Request a short answer from Avibe."""
    return client.chat.completions.create(**({"model": "avibe", "messages": HELLO, "max_tokens": 24} | fields))


def test_the_models_are_listed_by_both_names(client):
    """The fixed names and the ids of the loaded checkpoints."""
    assert [model.id for model in client.models.list()] == ["avibe", "avibe-demo", "avision", "avision-demo"]
    assert client.models.retrieve("avibe-demo").owned_by == "avito-ai"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found"


def test_a_chat_is_answered(client):
    """Text, finish reason, counts of tokens, and the id from the response's headers."""
    raw = client.chat.completions.with_raw_response.create(model="avibe-demo", messages=HELLO, max_completion_tokens=8)
    answer = raw.parse()
    assert answer.id == f"chatcmpl-{raw.headers['x-request-id']}"
    assert (answer.model, raw.headers["x-model"]) == ("avibe-demo", "avibe-demo")
    (choice,) = answer.choices
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_several_turns_of_every_role_are_read(client):
    """System and developer messages, text parts, an earlier answer as it was received."""
    first = chat(client).choices[0].message
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Answer in Russian."}]},
        *HELLO,
        first.model_dump(),
        {"role": "user", "content": [{"type": "text", "text": "Короче!"}]},
    ]
    assert chat(client, messages=turns).choices[0].message.content


def test_a_stream_equals_the_whole_answer(client):
    """With greedy decoding the joined pieces are the answer; the last events have the reason and the usage."""
    whole = chat(client, temperature=0)
    events = list(chat(client, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert events[0].choices[0].delta.role == "assistant"
    parts = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert len([part for part in parts if part]) > 1
    assert [event.choices[0].finish_reason for event in events[-2:-1]] == [whole.choices[0].finish_reason]
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(event.usage is None for event in events[:-1])


def test_a_stream_passes_proxies_unbuffered(client):
    """Server-sent events that proxies neither buffer nor store, with [DONE] at the end."""
    with client.chat.completions.with_streaming_response.create(
        model="avibe", messages=HELLO, max_tokens=2, stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        lines = list(response.iter_lines())
    assert [line for line in lines if line][-1] == "data: [DONE]"


def test_one_seed_gives_one_answer_and_n_gives_several(client):
    """The same answer alone and among others; the choices of one request differ."""
    fields = {"temperature": 1.5, "seed": 7, "top_p": 1.0, "extra_body": {"top_k": 0, "min_p": 0.0}}
    once, again = (chat(client, **fields).choices[0].message.content for _ in range(2))
    three = chat(client, **fields, n=3)
    assert once == again == three.choices[0].message.content
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in three.choices}) > 1
    streamed = {0: "", 1: ""}
    for event in chat(client, **fields, n=2, stream=True):
        for choice in event.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert [streamed[0], streamed[1]] == [choice.message.content for choice in three.choices[:2]]


def test_a_stop_string_ends_the_answer_and_is_not_shown(client):
    """As a text or in a list; the reason is `stop`."""
    whole = chat(client, temperature=0).choices[0].message.content
    end = whole[len(whole) // 2]
    for stop in (end, ["never written", end]):
        (choice,) = chat(client, temperature=0, stop=stop).choices
        assert choice.message.content == whole.partition(end)[0]
        assert choice.finish_reason == "stop"
    streamed = chat(client, temperature=0, stop=end, stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in streamed) == whole.partition(end)[0]


def test_an_answer_at_its_limit_ends_with_length(client):
    """finish_reason tells that the answer was cut."""
    answer = chat(client, max_tokens=1)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 1)


def test_log_probabilities_come_with_every_token(client):
    """In whole answers and in streams; the alternatives are ordered and hold the greedy choice."""
    answer = chat(client, temperature=0, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == answer.choices[0].message.content
    for token in tokens:
        assert token.logprob <= 0
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3
    events = chat(client, temperature=0, logprobs=True, stream=True)
    streamed = [token for event in events if event.choices[0].logprobs for token in event.choices[0].logprobs.content]
    assert [token.token for token in streamed] == [token.token for token in tokens]


def test_biases_change_the_answer(client):
    """A token with -100 is never generated, one with 100 always."""
    plain = chat(client, temperature=0, max_tokens=4).choices[0].message.content
    token = Tokenizer.from_file(TOKENIZER).encode(plain, add_special_tokens=False).ids[0]
    without = chat(client, temperature=0, max_tokens=4, logprobs=True, logit_bias={str(token): -100}).choices[0]
    only = chat(client, temperature=0, max_tokens=4, logprobs=True, logit_bias={str(token): 100}).choices[0]
    said = {token.token for token in only.logprobs.content}
    assert len(said) == 1
    assert plain.startswith(*said)
    assert not said & {token.token for token in without.logprobs.content}


def test_images_are_read(client):
    """One image and several; more images make a longer prompt."""
    one = client.chat.completions.create(
        model="avision", messages=with_images("What colour is it?", "red"), max_tokens=12, temperature=0
    )
    two = client.chat.completions.create(
        model="avision", messages=with_images("What colours are they?", "red", "blue"), max_tokens=12, temperature=0
    )
    assert one.choices[0].message.content
    assert two.choices[0].message.content
    assert two.usage.prompt_tokens > one.usage.prompt_tokens
    streamed = client.chat.completions.create(
        model="avision",
        messages=with_images("What colour is it?", "red"),
        max_tokens=12,
        temperature=0,
        stream=True,
    )
    assert "".join(event.choices[0].delta.content or "" for event in streamed) == one.choices[0].message.content


def test_an_answer_conforms_to_its_schema(client):
    """Whole and streamed; `json_object` gives any JSON object."""
    whole = chat(client, response_format=schema_format(SCHEMA), max_tokens=200)
    assert whole.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(whole.choices[0].message.content), SCHEMA)
    streamed = chat(client, response_format=schema_format(SCHEMA), max_tokens=200, stream=True)
    jsonschema.validate(json.loads("".join(event.choices[0].delta.content or "" for event in streamed)), SCHEMA)
    cut = chat(client, response_format={"type": "json_object"}, max_tokens=5)
    assert cut.choices[0].message.content.startswith("{")
    if cut.choices[0].finish_reason == "length":
        with pytest.raises(ValueError, match="."):
            json.loads(cut.choices[0].message.content)


def test_forced_tools_are_called(client):
    """`required` or a name, whole or streamed: a call with arguments of the schema; its result is accepted."""
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        answer = chat(client, tools=[WEATHER], tool_choice=choice, max_tokens=200, seed=1, parallel_tool_calls=False)
        call = answer.choices[0].message.tool_calls[0]
        assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)
        assert call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    events = list(chat(client, tools=[WEATHER], tool_choice="required", max_tokens=400, stream=True, seed=1))
    calls = [call for event in events for call in event.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "get_weather"
    first = "".join(call.function.arguments or "" for call in calls if call.index == 0)
    assert json.loads(first)["city"] is not None
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 20}'}
    turns = [*HELLO, answer.choices[0].message.model_dump(exclude_none=True), result]
    assert chat(client, messages=turns, tools=[WEATHER]).choices[0].message.content is not None


class Weather(pydantic.BaseModel):
    """Tells the weather of a city."""

    city: Literal["Москва", "Казань"]


class Listing(pydantic.BaseModel):
    """A form of an answer."""

    price: Literal[1, 2, 3]


def test_tools_and_a_form_go_together(client):
    """As the client's own `parse` and `stream` send them: each answer is a call or has the form."""
    asked = {"model": "avibe", "messages": HELLO, "max_tokens": 120, "response_format": Listing}
    tools, seen = [openai.pydantic_function_tool(Weather)], set()
    for seed in range(8):
        (choice,) = client.chat.completions.parse(**asked, tools=tools, seed=seed, temperature=2, top_p=1).choices
        for call in choice.message.tool_calls or []:
            assert isinstance(call.function.parsed_arguments, Weather)
        assert choice.message.tool_calls or isinstance(choice.message.parsed, Listing)
        seen.add(choice.finish_reason)
    assert seen <= {"tool_calls", "stop"}
    with client.chat.completions.stream(**asked, tools=tools, tool_choice="required") as stream:
        parts = [event for event in stream if event.type == "tool_calls.function.arguments.delta"]
        (call, *_) = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    assert len(parts) > 1


def test_a_forced_call_that_is_cut_is_a_call(client):
    """Wherever its limit falls; nothing is shown as text, whole or streamed."""
    forced = {"tools": [WEATHER], "tool_choice": "required", "seed": 1}
    for limit in (1, 3, 9, 27):
        (choice,) = chat(client, **forced, max_tokens=limit).choices
        assert (choice.finish_reason, choice.message.content) == ("length", None)
        (call,) = choice.message.tool_calls
        events = list(chat(client, **forced, max_tokens=limit, stream=True))
        parts = [part.function for event in events for part in event.choices[0].delta.tool_calls or []]
        assert (parts[0].name, call.function.name) == ("get_weather", "get_weather")
        assert "".join(part.arguments for part in parts) == call.function.arguments
        assert not any(event.choices[0].delta.content for event in events)


def test_tools_need_not_be_called(client):
    """`auto` leaves the choice to the model, `none` hides the tools from it."""
    plain = chat(client, temperature=0)
    hidden = chat(client, temperature=0, tools=[WEATHER], tool_choice="none")
    shown = chat(client, temperature=0, tools=[WEATHER])
    assert hidden.usage.prompt_tokens == plain.usage.prompt_tokens < shown.usage.prompt_tokens
    assert hidden.choices[0].message.tool_calls is None


def test_plain_texts_are_continued(client):
    """One text, several, tokens, with log probabilities, streamed."""
    ids = client.completions.create(model="avibe", prompt=[[1, 2, 3]], max_tokens=1)
    assert ids.usage.prompt_tokens == 3
    one = client.completions.create(model="avibe", prompt="Продаётся", max_tokens=6, temperature=0, logprobs=2)
    (choice,) = one.choices
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset[0] == 0
    assert all(len(top) <= 2 for top in choice.logprobs.top_logprobs)
    two = client.completions.create(model="avibe", prompt=["Продаётся", "Sale:"], max_tokens=6, temperature=0, n=2)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text == two.choices[1].text == choice.text
    events = client.completions.create(model="avibe", prompt="Продаётся", max_tokens=6, temperature=0, stream=True)
    assert "".join(event.choices[0].text for event in events) == choice.text


def test_programs_that_evaluate_models_can_score_texts(client):
    """As lm-evaluation-harness does: several prompts, cut by the number of their tokens; ids score as their text."""
    contexts, continued = ["Продаётся", "Sale: <|im_end|>"], [" велосипед, цена 4500", " a \U0001f642"]
    texts = [context + more for context, more in zip(contexts, continued, strict=True)]
    ids = [_post(client, "/tokenize", prompt=text)["tokens"] for text in texts]
    lengths = [_post(client, "/tokenize", prompt=context)["count"] for context in contexts]
    wish = {"model": "avibe", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    by_text = client.completions.create(prompt=texts, **wish).choices
    by_ids = client.completions.create(prompt=ids, **wish).choices
    for text, token_ids, length, one, other in zip(texts, ids, lengths, by_text, by_ids, strict=True):
        shown = one.logprobs
        assert one.text.startswith(text)
        assert len(shown.tokens) == len(shown.token_logprobs) == len(shown.top_logprobs) == len(token_ids) + 1
        assert shown.token_logprobs[0] is shown.top_logprobs[0] is None
        assert all(value <= 0 for value in shown.token_logprobs[length:-1])
        tops = zip(shown.tokens[length:], shown.top_logprobs[length:], strict=True)
        assert all(token in top for token, top in tops)
        assert shown.token_logprobs[1:] == pytest.approx(other.logprobs.token_logprobs[1:], abs=1e-4)
        assert other.text == one.text
    alone = client.completions.create(prompt=texts[0], **wish | {"max_tokens": 0})
    assert alone.choices[0].text == texts[0]
    assert (alone.choices[0].finish_reason, alone.usage.completion_tokens) == ("length", 0)
    values = alone.choices[0].logprobs.token_logprobs
    assert values[1:] == pytest.approx(by_text[0].logprobs.token_logprobs[1:-1], abs=1e-4)


def _post(client, path, **body):
    return client.post(path, body={"model": "avibe"} | body, cast_to=object)


MISTAKES = [
    ({"temperature": 3}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "url": ""}]}]}, "messages[0].content[0]"),
    ({"messages": with_images("What?", "red")}, "messages[0].content[0].image_url.url"),
    ({"n": 9}, "n"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logit_bias": {"999999": 1}}, "logit_bias"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"response_format": schema_format({"type": "array", "uniqueItems": True})}, "response_format.json_schema.schema"),
    ({"extra_body": {"use_beam_search": True}}, "use_beam_search"),
    ({"extra_body": {"best_of": 2}}, "best_of"),
]


@pytest.mark.parametrize(
    ("fields", "param"), MISTAKES, ids=[f"{param}-{number}" for number, (_, param) in enumerate(MISTAKES)]
)
def test_each_mistake_is_a_bad_request_that_names_the_field(client, fields, param):
    """The client raises BadRequestError with the field in `param`."""
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **fields)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_other_failures_raise_the_clients_classes(client):
    """An unknown model, an image at another address, a conversation longer than the context."""
    with pytest.raises(openai.NotFoundError):
        chat(client, model="gpt-4o")
    far = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]
    with pytest.raises(openai.BadRequestError, match="not fetched"):
        chat(client, model="avision", messages=far)
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=[{"role": "user", "content": "слово " * 4000}])
    assert caught.value.code == "context_length_exceeded"


def test_fields_without_effect_are_accepted(client):
    """Programs that set them need not be changed."""
    fields = {
        "user": "somebody",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "y",
        "parallel_tool_calls": True,
        "verbosity": "high",
        "modalities": ["text"],
        "reasoning_effort": "none",
        "seed": None,
        "stop": None,
        "stream_options": {"include_usage": True},
        "extra_body": {"add_generation_prompt": True, "length_penalty": 1.0, "keep_alive": "5m", "top_p": None},
    }
    assert (
        chat(client, temperature=0, **fields).choices[0].message.content
        == chat(client, temperature=0).choices[0].message.content
    )


def test_langchain_works(demo_server):
    """ChatOpenAI with a base URL: invoke, stream, structured output and tools."""
    model = ChatOpenAI(
        base_url=f"http://127.0.0.1:{demo_server.port}/v1",
        api_key=NO_KEY,
        model="avibe",
        max_retries=0,
        max_tokens=200,
        seed=1,
    )
    assert model.invoke("Привет!").content
    assert "".join(chunk.content for chunk in model.stream("Привет!"))
    shaped = model.with_structured_output(SCHEMA | {"title": "advert"}, method="json_schema").invoke(
        "Продай велосипед."
    )
    jsonschema.validate(shaped, SCHEMA)
    called = model.bind_tools([WEATHER], tool_choice="required").invoke("Погода?")
    assert called.tool_calls[0]["name"] == "get_weather"
