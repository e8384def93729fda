"""The JSON API under /api/v1."""

from __future__ import annotations

from functools import partial

from flask import Blueprint, Response, jsonify, request

from edge.charging import charge_if_refused
from edge.gate import BATCH_MODEL
from edge.request_state import request_state
from edge.route_table import JSON
from engine.errors import Overloaded
from routes import generation, request_reading
from routes.batch import Batch
from routes.chat.models import charge_batch
from routes.generation import GenerationResult, Started
from routes.response_models import Figures, GeneratedText, GenerationAnswer
from routes.services import services
from routes.sse import EventStream
from routes.streams import response_of

api = Blueprint("api", __name__, url_prefix="/api/v1")

RESUMABLE = "X-Resumable"  # sent by the page, whose streams outlive their connection
JSON_LINES = "application/x-ndjson"


@api.post("/text/generate")
def text_generate() -> Response:
    """Generate a text."""
    return _response(*_submit_text())


@api.post("/text/batch")
def text_batch() -> Response:
    """Generate up to 256 texts; each is sent as soon as it is done."""
    requests = charge_if_refused(request_reading.texts_in_json)
    state, capacity = request_state(), services().batch_capacity
    try:
        end = leave = capacity.admit(state.account.id)
    except Overloaded:
        charge_batch(BATCH_MODEL, 1)  # unless the model takes no requests at all, or not this client's
        capacity.count_refused()
        raise
    try:
        charge_batch(BATCH_MODEL, len(requests))
        batch = Batch(requests, partial(_priced, request_id=state.request_id), leave)
        end = batch.end
        return EventStream(batch.lines(), end).response(JSON_LINES)
    except BaseException:
        end()
        raise


@api.post("/image/analyze")
def image_analyze() -> Response:
    """Answer a question about an image."""
    return _response(*_submit_image())


# The body is read and dropped in functions of their own, so that nothing holds it while its answer is generated.


def _submit_text() -> tuple[Started, bool]:
    body = request_reading.text_in_json()
    return generation.start("avibe", body, history=body.history), bool(body.stream)


def _submit_image() -> tuple[Started, bool]:
    in_json = request.mimetype == JSON
    body, images = request_reading.image_in_json() if in_json else request_reading.image_in_upload()
    return generation.start("avision", body, images, body.history), bool(body.stream)


def _response(started: Started, stream: bool) -> Response:
    run, state = started.run, request_state()
    run.release_body()
    if not stream:
        return jsonify(_body(started.waited_for(), state.request_id))
    events = generation.events(started, partial(_last, request_id=state.request_id))
    if RESUMABLE in request.headers and (kept := services().streams.open(state.account.id, events, run)):
        run.outlive_client()
        return response_of(*kept)
    return EventStream(events, run.close, run.only, generation.KEEP_ALIVE_SECONDS).response()


def _body(result: GenerationResult, request_id: str) -> GenerationAnswer:
    data = GeneratedText(text=result.text, generated_tokens=result.generated_tokens, input_tokens=result.input_tokens)
    if result.dropped_turns is not None:
        data["dropped_turns"] = result.dropped_turns
    return GenerationAnswer(
        success=True,
        data=data,
        metrics=Figures(
            generation_time=round(result.generation_time, 3),
            total_time=round(result.total_time, 3),
            tokens_per_second=round(result.tokens_per_second, 2),
        ),
        request_id=request_id,
    )


def _priced(result: GenerationResult, request_id: str) -> GenerationAnswer:
    """Return what is sent after the headers, which do not have its cost."""
    body = _body(result, request_id)
    if result.cost is not None:
        body["metrics"]["cost"] = result.cost
    return body


def _last(result: GenerationResult, request_id: str) -> GenerationAnswer:
    """Return the last event of a stream, which tells when the first token was generated and why the answer ended."""
    body = _priced(result, request_id)
    body["data"]["finish_reason"] = "length" if result.cut else "stop"
    body["metrics"]["time_to_first_token"] = None if result.first_token is None else round(result.first_token, 3)
    return body
