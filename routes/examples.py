"""Requests that work as they stand, by route: their bodies, and the Python that makes them.

In a program, ADDRESS stands for the service's, BODY for the request's body, and FIELDS for its fields as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ASK = "Write a listing for: used bicycle"
LOOK = "What is in the picture?"
# A PNG of 16 x 16 red pixels.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAFklEQVR42mO4"  # pragma: allowlist secret
    "pqFBEmIY1TCqYfhqAAD7biYQ1DRZzQAAAABJRU5ErkJggg=="  # pragma: allowlist secret
)
PICTURE_URL = f"data:image/png;base64,{PICTURE}"
LISTING = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "price": {"type": "integer", "minimum": 0, "maximum": 100000},
    },
    "required": ["title", "price"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "Tells the weather of a city."}
IN_KAZAN = "What is the weather in Kazan?"

HTTPX = "import httpx\n\n"
ASKED = f"{HTTPX}ask = BODY\n"
OPENAI = 'from openai import OpenAI\n\nclient = OpenAI(base_url="ADDRESS/v1", api_key="none")\n'
ANTHROPIC = 'from anthropic import Anthropic\n\nclient = Anthropic(base_url="ADDRESS", api_key="none")\n'
CHAT = f"{OPENAI}answer = client.chat.completions.create(FIELDS)\n"
RESPONSE = f"{OPENAI}answer = client.responses.create(FIELDS)\n"
MESSAGE = f"{ANTHROPIC}answer = client.messages.create(FIELDS)\n"
STORED = f'{OPENAI}stored = client.responses.create(model="avibe", input="Hello!", store=True)\n'
STORED_BY_CURL = (
    "id=$(curl -s ADDRESS/v1/responses -H 'Content-Type: application/json' \\\n"
    '  -d \'{"model": "avibe", "input": "Hello!", "store": true}\' |\n'
    "  python3 -c 'import json, sys; print(json.load(sys.stdin)[\"id\"])')\n"
)


@dataclass(frozen=True, slots=True)
class Example:
    """A request. key: of its name in the locales; curl: for the shell, where the body is not all there is to it."""

    key: str
    python: str
    body: Mapping[str, Any] | None = None
    curl: str | None = None


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _posted(path: str, shown: str = '["data"]["text"]') -> str:
    return f'{ASKED}answer = httpx.post("ADDRESS{path}", json=ask, timeout=120)\nprint(answer.json(){shown})'


def _read_by_line(path: str) -> str:
    call = f'httpx.stream("POST", "ADDRESS{path}", json=ask, timeout=120)'
    return f"{ASKED}with {call} as answer:\n    for line in answer.iter_lines():\n        print(line)"


CHOICE = "print(answer.choices[0].message.content)"
MATCHING = {"type": "json_schema", "schema": LISTING}

OWN: Mapping[str, tuple[Example, ...]] = {
    "POST /api/v1/text/generate": (
        Example(
            "text",
            _posted("/api/v1/text/generate"),
            {"prompt": ASK, "max_tokens": 60, "temperature": 0.7},
        ),
        Example(
            "stream",
            _read_by_line("/api/v1/text/generate"),
            {"prompt": ASK, "max_tokens": 60, "stream": True},
        ),
    ),
    "POST /api/v1/text/batch": (
        Example(
            "batch",
            _read_by_line("/api/v1/text/batch"),
            {"prompts": ["Hello!", {"prompt": ASK, "max_tokens": 60}]},
        ),
    ),
    "POST /api/v1/feedback": (
        Example(
            "rating",
            f'{HTTPX}ask = {{"prompt": "{ASK}", "max_tokens": 60}}\n'
            'answer = httpx.post("ADDRESS/api/v1/text/generate", json=ask, timeout=120).json()\n'
            'rating = {"request_id": answer["request_id"], "rating": "up"}\n'
            'print(httpx.post("ADDRESS/api/v1/feedback", json=rating).json())',
            curl=(
                "id=$(curl -s ADDRESS/api/v1/text/generate -H 'Content-Type: application/json' \\\n"
                f'  -d \'{{"prompt": "{ASK}", "max_tokens": 60}}\' |\n'
                "  python3 -c 'import json, sys; print(json.load(sys.stdin)[\"request_id\"])')\n"
                "curl -s ADDRESS/api/v1/feedback -H 'Content-Type: application/json' \\\n"
                '  -d "{\\"request_id\\": \\"$id\\", \\"rating\\": \\"up\\"}"'
            ),
        ),
    ),
    "POST /api/v1/image/analyze": (
        Example(
            "upload",
            f'{HTTPX}ask = {{"prompt": "{LOOK}"}}\n'
            'with open("photo.png", "rb") as photo:\n    image = {"image": photo}\n'
            '    answer = httpx.post("ADDRESS/api/v1/image/analyze", files=image, data=ask, timeout=120)\n'
            'print(answer.json()["data"]["text"])',
            curl=f"curl -s ADDRESS/api/v1/image/analyze -F image=@photo.png -F 'prompt={LOOK}'",
        ),
        Example(
            "image",
            _posted("/api/v1/image/analyze"),
            {"image": PICTURE_URL, "prompt": LOOK, "max_tokens": 60},
        ),
    ),
}
OPENAIS: Mapping[str, tuple[Example, ...]] = {
    "GET /v1/models": (Example("text", f"{OPENAI}print([model.id for model in client.models.list()])"),),
    "GET /v1/models/<path:model_id>": (
        Example("text", f'{OPENAI}print(client.models.retrieve("avibe"))', curl="curl -s ADDRESS/v1/models/avibe"),
    ),
    "POST /v1/chat/completions": (
        Example("text", CHAT + CHOICE, {"model": "avibe", "messages": _user(ASK), "max_tokens": 60}),
        Example(
            "stream",
            f'{CHAT}for event in answer:\n    print(event.choices[0].delta.content or "", end="", flush=True)',
            {"model": "avibe", "messages": _user(ASK), "max_tokens": 60, "stream": True},
        ),
        Example(
            "image",
            CHAT + CHOICE,
            {
                "model": "avision",
                "messages": _user(
                    [{"type": "image_url", "image_url": {"url": PICTURE_URL}}, {"type": "text", "text": LOOK}]
                ),
                "max_tokens": 60,
            },
        ),
        Example(
            "schema",
            CHAT + CHOICE,
            {
                "model": "avibe",
                "messages": _user(ASK),
                "response_format": {"type": "json_schema", "json_schema": {"name": "listing", "schema": LISTING}},
            },
        ),
        Example(
            "tool",
            f"{CHAT}for call in answer.choices[0].message.tool_calls:\n"
            "    print(call.function.name, call.function.arguments)",
            {
                "model": "avibe",
                "messages": _user(IN_KAZAN),
                "tools": [{"type": "function", "function": {**WEATHER, "parameters": CITY}}],
                "tool_choice": "required",
            },
        ),
    ),
    "POST /v1/completions": (
        Example(
            "text",
            f"{OPENAI}answer = client.completions.create(FIELDS)\nprint(answer.choices[0].text)",
            {"model": "avibe", "prompt": "For sale: a used bicycle,", "max_tokens": 40},
        ),
    ),
    "POST /v1/responses": (
        Example(
            "text",
            f"{RESPONSE}print(answer.output_text)",
            {"model": "avibe", "instructions": "Be brief.", "input": ASK, "max_output_tokens": 60},
        ),
        Example(
            "stream",
            f'{RESPONSE}for event in answer:\n    if event.type == "response.output_text.delta":\n'
            '        print(event.delta, end="", flush=True)',
            {"model": "avibe", "input": ASK, "max_output_tokens": 60, "stream": True},
        ),
        Example(
            "image",
            f"{RESPONSE}print(answer.output_text)",
            {
                "model": "avision",
                "input": _user(
                    [{"type": "input_image", "image_url": PICTURE_URL}, {"type": "input_text", "text": LOOK}]
                ),
                "max_output_tokens": 60,
            },
        ),
        Example(
            "schema",
            f"{RESPONSE}print(answer.output_text)",
            {"model": "avibe", "input": ASK, "text": {"format": {**MATCHING, "name": "listing"}}},
        ),
        Example(
            "tool",
            f'{RESPONSE}for item in answer.output:\n    if item.type == "function_call":\n'
            "        print(item.name, item.arguments)",
            {
                "model": "avibe",
                "input": IN_KAZAN,
                "tools": [{"type": "function", **WEATHER, "parameters": CITY}],
                "tool_choice": "required",
            },
        ),
    ),
    "POST /v1/responses/input_tokens": (
        Example(
            "text",
            f"{OPENAI}print(client.responses.input_tokens.count(FIELDS).input_tokens)",
            {"model": "avibe", "input": ASK},
        ),
    ),
    "GET /v1/responses/<response_id>": (
        Example(
            "text",
            f"{STORED}print(client.responses.retrieve(stored.id).output_text)",
            curl=f"{STORED_BY_CURL}curl -s ADDRESS/v1/responses/$id",
        ),
    ),
    "DELETE /v1/responses/<response_id>": (
        Example(
            "text",
            f"{STORED}client.responses.delete(stored.id)",
            curl=f"{STORED_BY_CURL}curl -s -X DELETE ADDRESS/v1/responses/$id",
        ),
    ),
    "GET /v1/responses/<response_id>/input_items": (
        Example(
            "text",
            f"{STORED}for item in client.responses.input_items.list(stored.id):\n    print(item)",
            curl=f"{STORED_BY_CURL}curl -s ADDRESS/v1/responses/$id/input_items",
        ),
    ),
}
ANTHROPICS: Mapping[str, tuple[Example, ...]] = {
    "POST /v1/messages": (
        Example(
            "text",
            f"{MESSAGE}print(answer.content[0].text)",
            {"model": "avibe", "max_tokens": 60, "messages": _user(ASK)},
        ),
        Example(
            "stream",
            f'{MESSAGE}for event in answer:\n    if event.type == "content_block_delta":\n'
            '        print(event.delta.text, end="", flush=True)',
            {"model": "avibe", "max_tokens": 60, "messages": _user(ASK), "stream": True},
        ),
        Example(
            "image",
            f"{MESSAGE}print(answer.content[0].text)",
            {
                "model": "avision",
                "max_tokens": 60,
                "messages": _user(
                    [
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
                        {"type": "text", "text": LOOK},
                    ]
                ),
            },
        ),
        Example(
            "schema",
            f"{MESSAGE}print(answer.content[0].text)",
            {"model": "avibe", "max_tokens": 200, "messages": _user(ASK), "output_config": {"format": MATCHING}},
        ),
        Example(
            "tool",
            f'{MESSAGE}for block in answer.content:\n    if block.type == "tool_use":\n'
            "        print(block.name, block.input)",
            {
                "model": "avibe",
                "max_tokens": 200,
                "messages": _user(IN_KAZAN),
                "tools": [{**WEATHER, "input_schema": CITY}],
                "tool_choice": {"type": "tool", "name": "get_weather"},
            },
        ),
    ),
    "POST /v1/messages/count_tokens": (
        Example(
            "text",
            f"{ANTHROPIC}print(client.messages.count_tokens(FIELDS).input_tokens)",
            {"model": "avibe", "messages": _user(ASK)},
        ),
    ),
}
TOKENS: Mapping[str, tuple[Example, ...]] = {
    "POST /v1/tokenize": (
        Example("text", _posted("/v1/tokenize", '["tokens"]'), {"model": "avibe", "prompt": ASK}),
        Example("chat", _posted("/v1/tokenize", '["count"]'), {"model": "avibe", "messages": _user(ASK)}),
    ),
    "POST /v1/detokenize": (
        Example("text", _posted("/v1/detokenize", '["prompt"]'), {"model": "avibe", "tokens": [10, 20, 30]}),
    ),
}
EXAMPLES = {**OWN, **OPENAIS, **ANTHROPICS, **TOKENS}
