"""What a generation request asks for, from each kind of body that may carry it, checked before any work begins."""

from __future__ import annotations

from flask import current_app, g

from engine.errors import ValidationError
from engine.images import check_header
from engine.types import EncodedImage
from routes import parsing
from routes.schemas import ImageRequest, RequestModels, TextRequest, numbers_in, validated


def text_in_json() -> TextRequest:
    """Return the text that is asked for in a JSON body."""
    return validated(_models().text, parsing.json_object())


def text_in_form() -> TextRequest:
    """Return the text that is asked for in a form; what was typed stays in `g.typed`, to be shown again."""
    form = parsing.form()
    g.typed = form.fields
    _refuse_files(form, ())
    return validated(_models().text, numbers_in(form.fields))


def picture_in_json() -> tuple[ImageRequest, EncodedImage]:
    """Return the question and the picture of a JSON body."""
    asked = validated(_models().image_json, parsing.json_object())
    return asked, check_header(parsing.picture_in_data_url(asked.image))


def picture_in_form() -> tuple[ImageRequest, EncodedImage]:
    """Return the question and the picture of a form; what was typed stays in `g.typed`, to be shown again."""
    form = parsing.form()
    g.typed = form.fields
    _refuse_files(form, ("image",))
    if "image" in form.fields:
        raise ValidationError("image must be a file.", "image")
    asked = validated(_models().image, numbers_in(form.fields))
    if "image" not in form.files:
        raise ValidationError("image is required.", "image")
    return asked, check_header(form.files["image"])


def _refuse_files(form: parsing.Form, expected: tuple[str, ...]) -> None:
    for name in form.files:
        if name not in expected:
            shown = parsing.shown_name(name)
            raise ValidationError(f"Unknown field: {shown}.", shown)


def _models() -> RequestModels:
    models: RequestModels = current_app.extensions["request_models"]
    return models
