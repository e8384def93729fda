"""The routes under /v1."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from edge.charging import charge_if_refused
from routes import parsing
from routes.chat.models import charge_named
from routes.generation_run import Run
from routes.json_writing import json_response
from routes.named_user import note_user
from routes.openai import catalogue, chat, completions
from routes.openai.chat_response import ChatResponse
from routes.openai.completions import CompletionResponse
from routes.openai.requests import json_limits
from routes.openai.score_room import hold_scores
from routes.openai.tokenization import DetokenizationRequest, TokenizationRequest, text_of, tokens_of
from routes.services import services
from routes.sse import EventStream
from routes.validation import AnyRequest, validated

openai = Blueprint("openai", __name__, url_prefix="/v1")


@openai.get("/models")
def models() -> Response:
    """List the models."""
    return jsonify(catalogue.listing())


@openai.get("/models/<path:model_id>")
def model(model_id: str) -> Response:
    """Show one model."""
    return jsonify(catalogue.entry(model_id.removesuffix("/")))


@openai.post("/chat/completions")
def chat_completions() -> Response:
    """Answer a conversation."""
    return _response(*_submit_chat())


@openai.post("/completions")
def text_completions() -> Response:
    """Continue texts."""
    return _response(*_submit_completion())


@openai.post("/tokenize")
def tokenize() -> Response:
    """Show the tokens of a text or of a conversation."""
    return jsonify(tokens_of(_read(TokenizationRequest)))


@openai.post("/detokenize")
def detokenize() -> Response:
    """Show the text of tokens."""
    return jsonify(text_of(_read(DetokenizationRequest)))


# The body is read and dropped in functions of their own, so that nothing holds it while its answer is generated.


def _submit_chat() -> tuple[Run, ChatResponse, bool]:
    body = _read_charged(services().openai_models.chat)
    charge_named(body.model, body.n or 1)
    run, response = chat.submit_chat(body)
    return run.run, response, bool(body.stream)


def _submit_completion() -> tuple[Run, CompletionResponse, bool]:
    body = _read_charged(services().openai_models.completion)
    charge_named(body.model, body.n or 1, completions.prompts_of(body))
    return (*completions.submit_completion(body), bool(body.stream))


def _response(run: Run, response: ChatResponse | CompletionResponse, stream: bool) -> Response:
    run.release_body()
    hold_scores(run, "logprobs")
    if stream:
        return EventStream(response.events(), run.close, run.only).response()
    return json_response(response.whole(response.wait()))


def _read(model: type[AnyRequest]) -> AnyRequest:
    values = parsing.json_object(json_limits(services().settings.generation.max_model_len))
    note_user(values)
    return validated(model, values)


def _read_charged(model: type[AnyRequest]) -> AnyRequest:
    """Return the validated body; a body that is refused is charged as one answer."""
    return charge_if_refused(lambda: _read(model))
