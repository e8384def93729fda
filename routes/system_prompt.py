"""The operator's system prompt, which what is asked on the page begins with, and what programs ask does not."""

from __future__ import annotations

from flask import request

from edge.request_state import request_state
from engine.types import model_of
from routes.services import services
from telemetry.protocol import Protocol

PAGE_HEADER = "X-Page"  # which the scripts of the page send


def system_prompt(model: str) -> str:
    """Return the system prompt of this request to a model, "" for none."""
    row = request_state().row
    from_form = row is not None and row.protocol is Protocol.FORM
    if not from_form and PAGE_HEADER not in request.headers:
        return ""
    return services().settings.generation.system_prompt(model_of(model))
