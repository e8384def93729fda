"""The routes under /v1."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from edge.charging import charge, charge_if_refused
from routes import parsing
from routes.openai import catalogue, chat, completions
from routes.openai.requests import json_limits
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
    body = _read(services().openai_models.chat)
    charge(body.n or 1)
    return chat.create_chat_completion(body)


@openai.post("/completions")
def text_completions() -> Response:
    """Continue texts."""
    body = _read(services().openai_models.completion)
    charge(completions.cost(body))
    return completions.create_completion(body)


def _read(model: type[AnyRequest]) -> AnyRequest:
    """Return the validated body; a body that is refused is charged as one answer."""
    limits = json_limits(services().settings.generation.max_model_len)
    return charge_if_refused(lambda: validated(model, parsing.json_object(limits)))
