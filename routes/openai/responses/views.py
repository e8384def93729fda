"""The routes of the Responses API."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from edge.charging import charge_if_refused
from edge.route_table import JSON
from engine.errors import Unsupported
from routes import parsing
from routes.chat.body_limits import body_limits
from routes.chat.models import charge_named
from routes.json_writing import json_bytes
from routes.named_user import note_user
from routes.openai.responses import stored
from routes.openai.responses.bodies import DeletedResponse, InputTokenCount
from routes.openai.responses.create import count_input, submit_response
from routes.openai.responses.refusals import refuse_unsupported
from routes.openai.responses.requests import InputItemsQuery, ResponseRequest
from routes.openai.responses.response import Answer
from routes.services import services
from routes.sse import EventStream
from routes.validation import validated

responses = Blueprint("responses", __name__, url_prefix="/v1/responses")


@responses.post("")
def create() -> Response:
    """Answer an input of texts, images and results of functions."""
    answer, stream = _submit()
    answer.release_body()
    if stream:
        return EventStream(answer.events(), answer.close, answer.only).response()
    return Response(json_bytes(answer.whole()), content_type=JSON)


@responses.post("/input_tokens")
def input_tokens() -> Response:
    """Count the tokens of an input; nothing is generated."""
    return jsonify(InputTokenCount(object="response.input_tokens", input_tokens=count_input(_read())))


@responses.get("/<response_id>")
def retrieve(response_id: str) -> Response:
    """Show a response that was stored."""
    if request.args.get("stream", "false").lower() != "false":
        raise Unsupported("A stored response is not streamed again.", "stream")
    return Response(stored.find(response_id).body, content_type=JSON)


@responses.delete("/<response_id>")
def delete(response_id: str) -> Response:
    """Delete a response that was stored."""
    stored.delete(response_id)
    return jsonify(DeletedResponse(id=response_id, object="response", deleted=True))


@responses.get("/<response_id>/input_items")
def input_items(response_id: str) -> Response:
    """List the items that a stored response answers, the newest first."""
    found = stored.find(response_id)
    asked = validated(InputItemsQuery, InputItemsQuery.values(request.args))
    page = stored.input_items(found, asked.limit, asked.order == "desc", asked.after)
    return Response(json_bytes(page), content_type=JSON)


# The body is read and dropped in a function of its own, so that nothing holds it while its answer is generated.


def _submit() -> tuple[Answer, bool]:
    body = charge_if_refused(_read)
    charge_named(body.model)
    return submit_response(body), bool(body.stream)


def _read() -> ResponseRequest:
    values = parsing.json_object(body_limits(services().settings.generation.max_model_len))
    note_user(values)
    refuse_unsupported(values)
    return validated(ResponseRequest, values)
