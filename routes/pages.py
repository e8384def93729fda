"""The page with both forms. It is rendered here and works without JavaScript; `app.js` only adds."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from edge import parts
from edge.failures import meaning_of
from edge.readiness import overall
from engine.errors import RetryLater, ServiceError
from engine.images import MAX_IMAGE_BYTES
from engine.types import Status
from routes import asking
from routes.generation import Answer, answer
from routes.locale import visitors_locale
from routes.thumbnail import thumbnail_url

pages = Blueprint("pages", __name__)

MEGABYTE = 1_000_000
FORMS = {"/avibe": "text", "/avision": "picture"}


@pages.get("/")
def index() -> str:
    """Show both forms."""
    return _render()


@pages.get("/avibe", endpoint="avibe_again")
@pages.get("/avision", endpoint="avision_again")
def form_again() -> Response:
    """Lead whoever opens the address of an answer back to the forms."""
    return redirect(url_for("pages.index"), 303)


@pages.post("/avibe")
def avibe() -> str:
    """Write a text and show the page with it."""
    return _render(answer=answer("avibe", asking.text_in_form()))


@pages.post("/avision")
def avision() -> str:
    """Answer a question about a picture and show the page with both."""
    asked, image = asking.picture_in_form()
    made = answer("avision", asked, image)
    return _render(answer=made, thumbnail=thumbnail_url(image))


def failure_page(error: ServiceError, status: int) -> str:
    """Return the page that tells a visitor what went wrong: in the form that was sent, or alone."""
    locale = visitors_locale()
    failure = {
        "message": locale.sentence(error.message, meaning_of(error).code),
        "retry_after": error.retry_after if isinstance(error, RetryLater) else None,
        "status": status,
    }
    if request.path in FORMS:
        return _render(failure=failure)
    return render_template("failure.html", t=locale.texts, lang=locale.code, failure=failure, request_id=g.request_id)


def _render(answer: Answer | None = None, thumbnail: str | None = None, failure: dict[str, Any] | None = None) -> str:
    locale = visitors_locale()
    return render_template(
        "index.html",
        t=locale.texts,
        lang=locale.code,
        form=FORMS.get(request.path),
        typed=g.get("typed", {}),
        answer=answer,
        thumbnail=thumbnail,
        failure=failure,
        request_id=g.request_id,
        max_prompt_length=parts.settings().generation.max_prompt_length,
        max_image_megabytes=MAX_IMAGE_BYTES // MEGABYTE,
        **_state(),
    )


def _state() -> dict[str, Any]:
    """Return what the page says of the models: the state of all, those that are loading, and the demos."""
    states = parts.models().states()
    status = overall(states)
    infos = [backend.info for _, backend in parts.models()]
    return {
        "status": status.value,
        "loading": states if status is Status.LOADING else {},
        "demos": [info.served_id for info in infos if info.demo],
        "megabyte": MEGABYTE,
    }
