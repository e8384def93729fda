"""The JSON API under /api/v1."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, Response, jsonify, request

from edge.charging import charge
from edge.request_state import request_state
from edge.route_table import JSON
from engine.errors import ServiceError
from engine.types import EncodedImage
from routes import generation, request_reading
from routes.batch import Batch
from routes.generation import Answer
from routes.request_models import StreamedImageRequest, StreamedTextRequest
from routes.response_models import Figures, GeneratedText, GenerationAnswer
from routes.sse import EventStream

api = Blueprint("api", __name__, url_prefix="/api/v1")

JSON_LINES = "application/x-ndjson"


@api.post("/text/generate")
def text_generate() -> Response:
    """Write a text."""
    return _answered("avibe", request_reading.text_in_json())


@api.post("/text/batch")
def text_batch() -> Response:
    """Write many texts, and give each as soon as it is done."""
    try:
        asked = request_reading.texts_in_json()
    except ServiceError:
        charge()
        raise
    charge(len(asked))
    batch = Batch(asked, partial(_body, request_id=request_state().request_id))
    return EventStream(batch.lines(), batch.end).response(JSON_LINES)


@api.post("/image/analyze")
def image_analyze() -> Response:
    """Answer a question about a picture."""
    if request.mimetype == JSON:
        return _answered("avision", *request_reading.picture_in_json())
    return _answered("avision", *request_reading.picture_in_upload())


def _answered(
    model: str, asked: StreamedTextRequest | StreamedImageRequest, image: EncodedImage | None = None
) -> Response:
    request_id = request_state().request_id
    if not asked.stream:
        return jsonify(_body(generation.answer(model, asked, image), request_id))
    run = generation.begin(model, asked, image)
    return EventStream(generation.events(run, partial(_last, request_id=request_id)), run.close).response()


def _body(made: Answer, request_id: str) -> GenerationAnswer:
    return GenerationAnswer(
        success=True,
        data=GeneratedText(text=made.text, generated_tokens=made.generated_tokens, input_tokens=made.input_tokens),
        metrics=Figures(
            generation_time=round(made.generation_time, 3),
            total_time=round(made.total_time, 3),
            tokens_per_second=round(made.tokens_per_second, 2),
        ),
        request_id=request_id,
    )


def _last(made: Answer, request_id: str) -> GenerationAnswer:
    """Return the last event of a stream, which tells when the first token was generated."""
    body = _body(made, request_id)
    body["metrics"]["time_to_first_token"] = None if made.first_token is None else round(made.first_token, 3)
    return body
