"""What POST /v1/responses refuses: by name, in OpenAI's shape, before anything is generated."""

import base64

import openai
import pytest

from config import load_settings
from tests.fakes import image_bytes

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}
IMAGE = {"type": "input_image", "image_url": f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"}
FORTY = [TOOL | {"name": f"f{number}"} for number in range(40)]


def said(*parts):
    return [{"role": "user", "content": list(parts)}]


MISTAKES = [
    ({"input": None}, "input", "is required"),
    ({"input": []}, "input", "must have a message"),
    ({"input": [{"type": "reasoning", "id": "rs", "summary": []}]}, "input", "must have a message"),
    ({"input": 7}, "input", "must be a string"),
    ({"input": ["Hello"]}, "input[0]", "must be an object"),
    ({"input": [{"content": "Hello"}]}, "input[0].role", "is required"),
    ({"input": [{"role": "tool", "content": "Hello"}]}, "input[0].role", "must be"),
    ({"input": said({"type": "input_audio"})}, "input[0].content[0]", "input_text"),
    ({"input": said({"type": "input_file", "file_id": "f"})}, "input[0].content[0]", "input_text"),
    ({"input": said({"type": "input_image", "file_id": "f"})}, "input[0].content[0].image_url", "is required"),
    ({"input": said(IMAGE)}, "input[0].content[0].image_url", "does not read images"),
    ({"model": "avision", "input": said(*[IMAGE] * 5)}, "input[0].content[4].image_url", "at most 4 images"),
    (
        {"model": "avision", "input": said({"type": "input_image", "image_url": "https://example.com/a.png"})},
        "input[0].content[0].image_url",
        "not fetched",
    ),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]", "store: false"),
    ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0]", "web_search_call"),
    ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]}, "input[0].call_id", "is required"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", "web_search"),
    ({"tools": [TOOL, {"type": "mcp", "server_label": "a"}]}, "tools[1]", "mcp"),
    ({"tools": [{"type": "custom", "name": "a"}]}, "tools[0]", "custom"),
    (
        {"tools": [{"type": "namespace", "name": "a", "tools": [TOOL, {"type": "custom"}]}]},
        "tools[0].tools[1]",
        "custom",
    ),
    (
        {"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "function"}]}]},
        "tools[0].tools[0].name",
        "is req",
    ),
    ({"tools": [{"type": "namespace", "name": "a"}]}, "tools[0].tools", "is required"),
    ({"tools": [{"type": "namespace", "name": "a", "tools": 5}]}, "tools[0].tools", "must be a list"),
    ({"tools": [{"type": "namespace", "name": "a", "tools": [TOOL, TOOL]}]}, "tools", "one name"),
    ({"tools": [{"type": "namespace", "name": f"n{group}", "tools": FORTY} for group in range(4)]}, "tools", "128"),
    ({"tools": [TOOL, TOOL]}, "tools", "one name"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "is required"),
    ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "not among"),
    ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice", "file_search"),
    (
        {
            "tools": [TOOL],
            "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]},
        },
        "tool_choice.tools[0]",
        "not among",
    ),
    ({"include": ["web_search_call.moods"]}, "include[0]", "web_search_call.moods"),
    ({"background": True}, "background", "Stream the response instead."),
    ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt", "kept here"),
    ({"context_management": [{"type": "compaction"}]}, "context_management", "compacted"),
    ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "must be false"),
    ({"generate": False}, "generate", "An answer is always generated."),
    ({"max_output_tokens": 0}, "max_output_tokens", "integer"),
    ({"temperature": 3}, "temperature", "from 0 to 2"),
    ({"top_logprobs": 21}, "top_logprobs", "0 to 20"),
    ({"metadata": {"a": 1}}, "metadata.a", "must be a string"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "at most 16"),
    ({"truncation": "middle"}, "truncation", "auto"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "must be"),
    ({"text": {"format": {"type": "xml"}}}, "text.format", "json_schema"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "is required"),
    ({"max_tokens": 5}, "max_tokens", "Use max_output_tokens."),
    ({"messages": [{"role": "user", "content": "Hello"}]}, "messages", "Use input."),
    ({"response_format": {"type": "json_object"}}, "response_format", "Use text.format."),
    ({"reasoning_effort": "high"}, "reasoning_effort", "Use reasoning."),
    ({"n": 2}, "n", "must be 1"),
    ({"text": {"fromat": {"type": "json_object"}}}, "text.fromat", "Unknown field"),
    ({"reasoning": {"efort": "high"}}, "reasoning.efort", "Unknown field"),
    ({"temprature": 0.5}, "temprature", "Unknown field"),
]


@pytest.mark.parametrize(
    ("fields", "param", "words"), MISTAKES, ids=[f"{param}-{number}" for number, (_, param, _) in enumerate(MISTAKES)]
)
def test_each_mistake_is_a_bad_request_that_names_the_field(client, avibe, fields, param, words):
    """With this protocol's own name of it, and what is wrong."""
    response = client.post(PATH, json={"model": "avibe", "input": "Hello"} | fields)
    error = response.json["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]
    assert avibe.submitted == []


def test_a_body_without_input_is_refused(client):
    """The one field beside the model that a request needs."""
    assert client.post(PATH, json={"model": "avibe"}).json["error"]["param"] == "input"
    assert client.post(PATH, json={"input": "Hello"}).json["error"]["param"] == "model"


def test_an_unknown_model_raises_the_clients_class(respond):
    """404 with the code that clients look for."""
    with pytest.raises(openai.NotFoundError) as caught:
        respond(model="gpt-5")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_conversation_beyond_the_context_is_refused_by_its_field(respond):
    """Whatever `truncation` asks for: a question is never cut."""
    for truncation in ("disabled", "auto"):
        with pytest.raises(openai.BadRequestError) as caught:
            respond(input="слово " * 400_000, truncation=truncation)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


@pytest.fixture
def environ(request):
    """Limits are off, except where a test asks for them."""
    return getattr(request, "param", {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"})


@pytest.mark.parametrize("environ", [{"RATE_LIMIT_PER_MINUTE": "2"}], indirect=True)
def test_each_request_is_charged_once(client):
    """Refused ones too; the third of two is a 429 in OpenAI's shape."""
    assert client.post(PATH, json={"model": "avibe", "input": "Hello"}).headers["RateLimit-Remaining"] == "1"
    assert client.post(PATH, json={"model": "avibe"}).headers["RateLimit-Remaining"] == "0"
    refused = client.post(PATH, json={"model": "avibe", "input": "Hello"})
    assert (refused.status_code, refused.json["error"]["type"]) == (429, "rate_limit_error")


def test_nothing_is_stored_where_the_operator_wants_none(models, machine):
    """store: true is refused by name, and not passed over."""
    from app_production import create_app

    off = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0", "STORED_RESPONSES_MIB": "0"}
    client = create_app(load_settings(off, None), models, machine).test_client()
    refused = client.post(PATH, json={"model": "avibe", "input": "Hello", "store": True})
    assert (refused.status_code, refused.json["error"]["param"]) == (400, "store")
    assert client.post(PATH, json={"model": "avibe", "input": "Hello", "store": False}).status_code == 200
