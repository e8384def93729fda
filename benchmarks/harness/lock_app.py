"""The simplest server of a model, which ours is compared with: a Flask app whose threads call `generate` in turn.

    gunicorn --threads 128 "benchmarks.harness.lock_app:create_app('TEXT_FOLDER', 'VISION_FOLDER')"

It answers `POST /v1/chat/completions`, streamed or not, for the models `avibe` and `avision`, on the CPU in float32.
"""

from __future__ import annotations

import base64
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request

from benchmarks.harness.one_by_one import OneByOne
from engine.text.images import check_header
from engine.types import ChatPrompt, Completion, EncodedImage, GenerationRequest, ModelSpec, SamplingParams

TIMEOUT = 900.0  # seconds


def create_app(text: str, vision: str | None = None, max_model_len: int = 1024) -> Flask:
    """Load the models and return the app. text, vision: folders of checkpoints."""
    folders = {"avibe": text} | ({"avision": vision} if vision else {})
    models = {name: OneByOne(spec(name, Path(folder)), max_model_len) for name, folder in folders.items()}
    app = Flask(__name__)

    @app.get("/ready")
    def ready() -> str:
        return "ready"

    @app.post("/v1/chat/completions")
    def chat() -> Response:
        body = request.get_json()
        model, generation_request = models[body["model"]], _request(body)
        if body.get("stream"):
            return Response(_events(model, generation_request), mimetype="text/event-stream")
        completion = model.answer(generation_request, lambda part: None)
        message = {"role": "assistant", "content": completion.text}
        choice = {"index": 0, "message": message, "finish_reason": completion.finish_reason}
        return jsonify({"object": "chat.completion", "choices": [choice], "usage": _usage(completion)})

    return app


def spec(name: str, folder: Path) -> ModelSpec:
    """Return a checkpoint as the service would load it on the CPU."""
    return ModelSpec(name, name, name == "avision", folder, folder, "cpu", "float32", "", "", "")


def _events(model: OneByOne, generation_request: GenerationRequest) -> Iterator[str]:
    """Yield the events of a stream while another thread generates."""
    parts: queue.SimpleQueue[str | Completion | Exception] = queue.SimpleQueue()

    def generate() -> None:
        try:
            parts.put(model.answer(generation_request, parts.put))
        except Exception as error:
            parts.put(error)

    threading.Thread(target=generate, daemon=True).start()
    while isinstance(part := parts.get(), str):
        yield _event({"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]})
    if isinstance(part, Exception):
        raise part
    yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": part.finish_reason}], "usage": _usage(part)})
    yield "data: [DONE]\n\n"


def _event(said: dict[str, Any]) -> str:
    return f"data: {json.dumps({'object': 'chat.completion.chunk'} | said)}\n\n"


def _usage(completion: Completion) -> dict[str, int]:
    return {"prompt_tokens": completion.prompt_tokens, "completion_tokens": completion.output_tokens}


def _request(body: dict[str, Any]) -> GenerationRequest:
    messages, images = list[dict[str, Any]](), list[EncodedImage]()
    for message in body["messages"]:
        content = message["content"]
        if isinstance(content, list):
            images += [_image(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
            content = [part if part["type"] == "text" else {"type": "image"} for part in content]
        messages.append({"role": message["role"], "content": content})
    sampling = SamplingParams(body.get("max_tokens", 256), body.get("temperature", 1.0))
    return GenerationRequest("", ChatPrompt(tuple(messages), tuple(images)), sampling, timeout=TIMEOUT)


def _image(url: str) -> EncodedImage:
    return check_header(base64.b64decode(url.partition(",")[2]))
