"""The routes under /v1/messages."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from edge.charging import charge_if_refused
from routes import parsing
from routes.anthropic.answer import MessageResponse
from routes.anthropic.bodies import TokenCount
from routes.anthropic.messages import count_message, submit_message
from routes.anthropic.requests import CountTokensRequest, MessagesRequest
from routes.chat.body_limits import body_limits
from routes.chat.models import charge_named
from routes.generation_run import Run
from routes.named_user import note_user
from routes.services import services
from routes.sse import EventStream
from routes.validation import AnyRequest, validated

anthropic = Blueprint("anthropic", __name__, url_prefix="/v1/messages")


@anthropic.post("")
def messages() -> Response:
    """Answer a conversation of Anthropic's Messages API."""
    run, response, stream = _submit()
    run.release_body()
    if stream:
        return EventStream(response.events(), run.close, run.only).response()
    (completion,) = run.results()
    return jsonify(response.whole(completion))


@anthropic.post("/count_tokens")
def count_tokens() -> Response:
    """Count the tokens of a conversation; nothing is generated."""
    return jsonify(TokenCount(input_tokens=count_message(_read(CountTokensRequest))))


# The body is read and dropped in a function of its own, so that nothing holds it while its answer is generated.


def _submit() -> tuple[Run, MessageResponse, bool]:
    body = charge_if_refused(lambda: _read(MessagesRequest))
    charge_named(body.model)
    chat, response = submit_message(body)
    return chat.run, response, bool(body.stream)


def _read(model: type[AnyRequest]) -> AnyRequest:
    values = parsing.json_object(body_limits(services().settings.generation.max_model_len))
    note_user(values)
    return validated(model, values)
