"""What people thought of answers: a rating by request id, counted by model. No text is taken, and none is kept."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from edge.errors import NotFound
from edge.request_state import request_state
from engine.errors import Message
from routes import parsing
from routes.request_models import FeedbackRequest
from routes.response_models import FeedbackAnswer
from routes.services import services
from routes.validation import validated

feedback = Blueprint("feedback", __name__, url_prefix="/api/v1")

UNKNOWN = Message("answer_unknown", "There is no answer of this request id that can be rated; it may be too long ago.")


@feedback.post("/feedback")
def rate() -> Response:
    """Rate an answer, by its request id; ratings are counted by model."""
    asked = validated(FeedbackRequest, parsing.json_object())
    found = services().rated_answers.rate(request_state().account.id, asked.request_id)
    if found is None:
        raise NotFound(UNKNOWN)
    model, first = found
    if first:
        services().metrics.rated(model, asked.rating)
    return jsonify(FeedbackAnswer(success=True, counted=first))
