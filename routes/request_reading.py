"""What a generation request asks for, from each kind of body that may carry it, checked before any work begins."""

from __future__ import annotations

from typing import Any

from edge.request_state import request_state
from engine.errors import ValidationError
from engine.text.images import check_header
from engine.types import EncodedImage
from routes import kept_image, parsing
from routes.request_models import (
    ImageJsonRequest,
    ImageRequest,
    StreamedImageRequest,
    StreamedTextRequest,
    TextRequest,
    numbers_in,
)
from routes.services import services
from routes.validation import AnyRequest, validated


def text_in_json() -> StreamedTextRequest:
    """Return the text that is asked for in a JSON body."""
    return validated(services().request_models.text_json, parsing.json_object())


def texts_in_json() -> list[TextRequest | ValidationError]:
    """Return the texts of a batch, each as it would be asked for alone; a bad one is its own mistake, not the batch's.

    Raises ValidationError for a batch that is none.
    """
    asked = validated(services().request_models.batch, parsing.json_object())
    return [_one_text(item) for item in asked.prompts]


def _one_text(item: str | dict[str, Any]) -> TextRequest | ValidationError:
    try:
        return validated(services().request_models.text, {"prompt": item} if isinstance(item, str) else item)
    except ValidationError as error:
        return error


def text_in_form() -> TextRequest:
    """Return the text that is asked for in a form; what was typed stays in the request's state, to be shown again."""
    form = _remembered(parsing.form())
    _refuse_files(form, ())
    return validated(services().request_models.text, numbers_in(form.fields))


def picture_in_json() -> tuple[ImageJsonRequest, EncodedImage]:
    """Return the question and the picture of a JSON body."""
    asked = validated(services().request_models.image_json, parsing.json_object())
    return asked, check_header(parsing.picture_in_data_url(asked.image))


def picture_in_upload() -> tuple[StreamedImageRequest, EncodedImage]:
    """Return the question and the picture of a form that a program sends."""
    return _picture_in(parsing.form(), services().request_models.image_form)


def picture_in_form() -> tuple[ImageRequest, EncodedImage]:
    """Return the question and the picture of a form; both stay in the request's state, as with `remember`."""
    return _picture_in(_remembered(kept_image.form_with_picture()), services().request_models.image)


def remember() -> None:
    """Read a form of the page that was refused unread, so that nothing of it is lost. Raises ValidationError."""
    _remembered(kept_image.form_with_picture())


def _remembered(form: parsing.Form) -> parsing.Form:
    """Keep what was typed and the image in the request's state, to be shown again with whatever comes of it."""
    state = request_state()
    state.typed, state.image = form.fields, form.files.get("image")
    return form


def _picture_in(form: parsing.Form, model: type[AnyRequest]) -> tuple[AnyRequest, EncodedImage]:
    _refuse_files(form, ("image",))
    if "image" in form.fields:
        raise ValidationError("image must be a file.", "image")
    asked = validated(model, numbers_in(form.fields))
    if "image" not in form.files:
        raise ValidationError("image is required.", "image")
    return asked, check_header(form.files["image"])


def _refuse_files(form: parsing.Form, expected: tuple[str, ...]) -> None:
    for name in form.files:
        if name not in expected:
            shown = parsing.shown_name(name)
            raise ValidationError(f"Unknown field: {shown}.", shown)
