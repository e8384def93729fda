"""The routes under /v1."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from edge.charging import charge
from engine.errors import ServiceError
from routes import parsing
from routes.openai import catalogue, chat, completions
from routes.response_models import ModelList
from routes.services import services
from routes.validation import AnyRequest, validated

openai = Blueprint("openai", __name__, url_prefix="/v1")


@openai.get("/models")
def models() -> Response:
    """List the models."""
    return jsonify(ModelList(object="list", data=catalogue.entries()))


@openai.get("/models/<path:model_id>")
def model(model_id: str) -> Response:
    """Show one model."""
    return jsonify(catalogue.entry(model_id))


@openai.post("/chat/completions")
def chat_completions() -> Response:
    """Answer a conversation."""
    asked = _read(services().openai_models.chat)
    charge(asked.n or 1)
    return chat.answer(asked)


@openai.post("/completions")
def text_completions() -> Response:
    """Continue texts."""
    asked = _read(services().openai_models.completion)
    charge(completions.cost(asked))
    return completions.answer(asked)


def _read(model: type[AnyRequest]) -> AnyRequest:
    """Return the request; one that cannot be read counts as one."""
    try:
        return validated(model, parsing.json_object())
    except ServiceError:
        charge()
        raise
