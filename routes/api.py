"""The JSON API under /api/v1."""

from __future__ import annotations

from flask import Blueprint, Response, g, jsonify, request

from edge.route_table import JSON
from routes import asking
from routes.generation import Answer, answer

api = Blueprint("api", __name__, url_prefix="/api/v1")


@api.post("/text/generate")
def text_generate() -> Response:
    """Write a text."""
    return _shown(answer("avibe", asking.text_in_json()))


@api.post("/image/analyze")
def image_analyze() -> Response:
    """Answer a question about a picture."""
    asked, image = asking.picture_in_json() if request.mimetype == JSON else asking.picture_in_form()
    return _shown(answer("avision", asked, image))


def _shown(made: Answer) -> Response:
    return jsonify(
        success=True,
        data={"text": made.text, "generated_tokens": made.generated_tokens, "input_tokens": made.input_tokens},
        metrics={
            "generation_time": round(made.generation_time, 3),
            "total_time": round(made.total_time, 3),
            "tokens_per_second": round(made.tokens_per_second, 2),
        },
        request_id=g.request_id,
    )
