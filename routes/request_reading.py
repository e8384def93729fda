"""Generation requests of the pages and of /api/v1, read from each kind of body and validated."""

from __future__ import annotations

from typing import Any

from edge.request_state import request_state
from engine.errors import Message, ValidationError
from engine.text.images import check_header
from engine.types import EncodedImage
from routes import kept_image, parsing
from routes.json_values import shown_name
from routes.request_models import (
    ImageJsonRequest,
    ImageRequest,
    StreamedImageRequest,
    StreamedTextRequest,
    TextRequest,
    numbers_in,
)
from routes.services import services
from routes.validation import AnyRequest, unknown_field, validated


def text_in_json() -> StreamedTextRequest:
    """Return the request in a JSON body."""
    return validated(services().request_models.text_json, parsing.json_object())


def texts_in_json() -> list[TextRequest | ValidationError]:
    """Return the requests of a batch; an invalid one is returned as its error and fails alone.

    Raises ValidationError for a body that is no batch.
    """
    batch = validated(services().request_models.batch, parsing.json_object(check_strings=False))
    return [_one_text(item) for item in batch.prompts]


def _one_text(item: str | dict[str, Any]) -> TextRequest | ValidationError:
    try:
        return validated(services().request_models.text, {"prompt": item} if isinstance(item, str) else item)
    except ValidationError as error:
        return error


def text_in_form() -> TextRequest:
    """Return the request in a form of the page; its fields stay in the request's state, to fill the form again."""
    form = _remembered(parsing.submitted_form())
    _refuse_files(form, ())
    return validated(services().request_models.text, numbers_in(form.fields))


def image_in_json() -> tuple[ImageJsonRequest, EncodedImage]:
    """Return the request and the image of a JSON body."""
    body = validated(services().request_models.image_json, parsing.json_object())
    return body, check_header(parsing.image_in_data_url(body.image))


def image_in_upload() -> tuple[StreamedImageRequest, EncodedImage]:
    """Return the request and the image of a form sent to the API."""
    return _image_in(parsing.submitted_form(), services().request_models.image_form)


def image_in_form() -> tuple[ImageRequest, EncodedImage]:
    """Return the request and the image in a form of the page; both stay in the request's state, as with `remember`."""
    return _image_in(_remembered(kept_image.form_with_image()), services().request_models.image)


def remember() -> None:
    """Keep a form of the page that was refused before it was read. Raises ValidationError."""
    _remembered(kept_image.form_with_image())


def _remembered(form: parsing.Form) -> parsing.Form:
    """Keep the fields and the image of a form in the request's state, to fill the form again."""
    state = request_state()
    state.typed, state.image = form.fields, form.files.get("image")
    return form


def _image_in(form: parsing.Form, model: type[AnyRequest]) -> tuple[AnyRequest, EncodedImage]:
    _refuse_files(form, ("image",))
    if "image" in form.fields:
        raise ValidationError(Message("image_not_a_file", "image must be a file."), "image")
    body = validated(model, numbers_in(form.fields))
    if "image" not in form.files:
        raise ValidationError(Message("image_missing", "image is required."), "image")
    return body, check_header(form.files["image"])


def _refuse_files(form: parsing.Form, expected: tuple[str, ...]) -> None:
    for name in form.files:
        if name not in expected:
            raise unknown_field(shown_name(name))
