"""The language of the pages, which a visitor chooses: what is typed comes along."""

from __future__ import annotations

import re

from flask import Blueprint, make_response, redirect, request, url_for
from flask import Response as FlaskResponse
from werkzeug.wrappers import Response

from engine.errors import ValidationError
from routes import kept_image, operator_page
from routes.locale import COOKIE, LOCALES, speak
from routes.pages import page_with, sign_in_page
from routes.request_models import LanguageForm
from routes.validation import validated
from routes.visitor import Kept, typed_into, visitor

language = Blueprint("language", __name__)

A_YEAR = 365 * 24 * 3600  # seconds
SWITCHABLE = re.compile(rf"/|/sign-in|/api/docs|{operator_page.ADDRESS.pattern}", re.ASCII)


@language.post("/language")
def choose() -> Response:
    """Store the chosen language in a cookie; redirect back to the page, or show a form with what was typed into it."""
    form = kept_image.form_with_image()
    kept = typed_into(request.args.get("form", ""), form.fields, form.files.get("image", ()))
    fields = form.fields if kept is None else {name: form.fields.get(name) for name in LanguageForm.model_fields}
    chosen = validated(LanguageForm, {name: value for name, value in fields.items() if value is not None})
    if chosen.language not in LOCALES:
        raise ValidationError(f"language must be one of {', '.join(LOCALES)}.", "language")
    speak(chosen.language)
    response = redirect(_back_to(chosen.page), 303) if kept is None else _page_with(kept)
    response.set_cookie(COOKIE, chosen.language, max_age=A_YEAR, httponly=True, samesite="Lax")
    return response


def _back_to(page: str | None) -> str:
    return page if page and SWITCHABLE.fullmatch(page) else url_for("pages.index")


def _page_with(kept: Kept) -> FlaskResponse:
    seen = visitor()
    return make_response(sign_in_page(kept) if seen.signed_out else page_with(kept, seen))


@language.get("/language")
def again() -> Response:
    """Redirect to the forms."""
    return redirect(url_for("pages.index"), 303)
