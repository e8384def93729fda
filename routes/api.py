"""The JSON API under /api/v1."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, Response, jsonify, request

from edge.charging import charge, charge_if_refused
from edge.request_state import request_state
from edge.route_table import JSON
from engine.types import EncodedImage
from routes import generation, request_reading
from routes.batch import Batch
from routes.generation import GenerationResult
from routes.request_models import StreamedImageRequest, StreamedTextRequest
from routes.response_models import Figures, GeneratedText, GenerationAnswer
from routes.sse import EventStream

api = Blueprint("api", __name__, url_prefix="/api/v1")

JSON_LINES = "application/x-ndjson"


@api.post("/text/generate")
def text_generate() -> Response:
    """Generate a text."""
    return _response("avibe", request_reading.text_in_json())


@api.post("/text/batch")
def text_batch() -> Response:
    """Generate up to 256 texts; each is sent as soon as it is done."""
    requests = charge_if_refused(request_reading.texts_in_json)
    charge(len(requests))
    batch = Batch(requests, partial(_body, request_id=request_state().request_id))
    return EventStream(batch.lines(), batch.end).response(JSON_LINES)


@api.post("/image/analyze")
def image_analyze() -> Response:
    """Answer a question about an image."""
    if request.mimetype == JSON:
        return _response("avision", *request_reading.image_in_json())
    return _response("avision", *request_reading.image_in_upload())


def _response(
    model: str, body: StreamedTextRequest | StreamedImageRequest, image: EncodedImage | None = None
) -> Response:
    request_id = request_state().request_id
    if not body.stream:
        return jsonify(_body(generation.generate(model, body, image), request_id))
    run = generation.start(model, body, image)
    return EventStream(generation.events(run, partial(_last, request_id=request_id)), run.close).response()


def _body(result: GenerationResult, request_id: str) -> GenerationAnswer:
    return GenerationAnswer(
        success=True,
        data=GeneratedText(
            text=result.text, generated_tokens=result.generated_tokens, input_tokens=result.input_tokens
        ),
        metrics=Figures(
            generation_time=round(result.generation_time, 3),
            total_time=round(result.total_time, 3),
            tokens_per_second=round(result.tokens_per_second, 2),
        ),
        request_id=request_id,
    )


def _last(result: GenerationResult, request_id: str) -> GenerationAnswer:
    """Return the last event of a stream, which tells when the first token was generated."""
    body = _body(result, request_id)
    body["metrics"]["time_to_first_token"] = None if result.first_token is None else round(result.first_token, 3)
    return body
