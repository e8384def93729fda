"""The real service in front of a second copy of itself: every protocol, and what the first never loads."""

import base64
import json
import urllib.request
from pathlib import Path

import anthropic
import psutil
import pytest
from openai import APIError, OpenAI

from tests.e2e.demo_service import SETTINGS, ready
from tests.e2e.gunicorn_process import GunicornProcess, until

pytestmark = pytest.mark.slow

KEY = "none"  # pragma: allowlist secret
PICTURE = base64.b64encode((Path(__file__).parents[2] / "docs" / "red-square.png").read_bytes()).decode()
HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 12}, "price": {"type": "integer", "maximum": 999}},
    "required": ["title", "price"],
    "additionalProperties": False,
}


def stated(process):
    """Return what readiness says, None while nothing answers."""
    try:
        return process.get("/api/health/ready", timeout=5)[1]
    except OSError:
        return None


@pytest.fixture(scope="module")
def front(demo_server, tmp_path_factory):
    """The service that loads nothing: the other one answers for both models."""
    url = f"http://127.0.0.1:{demo_server.port}/v1"
    settings = SETTINGS | {"VIBE_UPSTREAM": url, "VISION_UPSTREAM": url}
    with GunicornProcess(tmp_path_factory.mktemp("front"), app="app_production:app", **settings) as process:
        until(lambda: ready(process), patience=120)
        yield process


@pytest.fixture(scope="module")
def client(front):
    return OpenAI(base_url=f"http://127.0.0.1:{front.port}/v1", api_key=KEY, max_retries=0)


def test_nothing_is_loaded(front):
    """No library of models is in the process in front."""
    front.logged("avibe is ready")
    workers = psutil.Process(front.process.pid).children(recursive=True)
    assert not any("libtorch" in one.path for worker in workers for one in worker.memory_maps())


def test_texts_and_streams(client):
    """The same text by both, with the tokens that the other copy has counted."""
    asked = {"model": "avibe", "messages": HELLO, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked)
    usage, parts = None, []
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        parts += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(parts) == whole.choices[0].message.content
    assert usage.prompt_tokens == whole.usage.prompt_tokens > 0
    assert usage.completion_tokens == whole.usage.completion_tokens > 0


def test_images(client):
    """Through to the other copy's model, which sees them."""
    content = [
        {"type": "text", "text": "What is in the picture?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    ]
    answer = client.chat.completions.create(
        model="avision", messages=[{"role": "user", "content": content}], max_tokens=20, temperature=0
    )
    assert "red" in answer.choices[0].message.content.lower()


def test_a_forced_call_and_a_schema(client):
    """Arguments and answer are those that the schemas allow."""
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    called = client.chat.completions.create(
        model="avibe", messages=HELLO, tools=[tool], tool_choice="required", max_tokens=200
    )
    (call,) = called.choices[0].message.tool_calls[:1]
    assert json.loads(call.function.arguments).keys() == {"title", "price"}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model="avibe", messages=HELLO, response_format=shape, max_tokens=200)
    assert json.loads(answer.choices[0].message.content).keys() == {"title", "price"}


def test_the_other_protocols(front, client):
    """Responses, older completions, Anthropic's messages, and our own routes."""
    assert client.responses.create(model="avibe", input="Hello", max_output_tokens=16).output_text
    assert client.completions.create(model="avibe", prompt="For sale:", max_tokens=4).choices[0].text
    speaks = anthropic.Anthropic(base_url=f"http://127.0.0.1:{front.port}", api_key=KEY, max_retries=0)
    assert speaks.messages.create(model="avibe", max_tokens=16, messages=HELLO).content[0].text
    with speaks.messages.stream(model="avibe", max_tokens=16, messages=HELLO) as stream:
        assert "".join(stream.text_stream)
    own = urllib.request.Request(
        f"http://127.0.0.1:{front.port}/api/v1/text/generate",
        json.dumps({"prompt": "Hello", "max_tokens": 8}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(own) as answer:
        assert json.load(answer)["data"]["text"]


def test_a_client_that_leaves_is_noticed_by_the_other_copy(front, demo_server, client):
    """Through both: its model has nothing to do afterwards."""
    stream = client.chat.completions.create(
        model="avibe", messages=HELLO, stream=True, max_tokens=1500, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    metrics = f"http://127.0.0.1:{demo_server.port}/metrics"
    idle = b'avito_ai_num_requests_running{model="avibe"} 0.0'
    until(lambda: idle in urllib.request.urlopen(metrics).read())


def test_the_others_end_is_told(tmp_path):
    """A copy that is gone makes its model not ready; each request gets a typed error."""
    settings = SETTINGS | {"VIBE_UPSTREAM": "http://127.0.0.1:9/v1", "VISION_UPSTREAM": "http://127.0.0.1:9/v1"}
    with GunicornProcess(tmp_path, app="app_production:app", **settings) as process:
        until(lambda: (state := stated(process)) and state["status"] == "stalled", patience=120)
        asks = OpenAI(base_url=f"http://127.0.0.1:{process.port}/v1", api_key=KEY, max_retries=0)
        with pytest.raises(APIError) as refused:
            asks.chat.completions.create(model="avibe", messages=HELLO)
        assert refused.value.body["code"] == "not_ready"
