"""Generation requests of the pages and of /api/v1, read from each kind of body and validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.request_state import request_state
from engine.errors import Message, ValidationError
from engine.types import EncodedImage
from routes import follow_up, image_reading, kept_image, parsing
from routes.json_text import read_json
from routes.json_values import shown_name
from routes.request_models import (
    ImageJsonRequest,
    ImageRequest,
    StreamedImageRequest,
    StreamedTextRequest,
    TextForm,
    TextRequest,
    Turn,
    numbers_in,
)
from routes.services import services
from routes.validation import AnyRequest, unknown_field, validated

Turns = tuple[Turn, ...]
Images = tuple[EncodedImage, ...]


def text_in_json() -> StreamedTextRequest:
    """Return the request in a JSON body."""
    return validated(services().request_models.text_json, parsing.json_object())


def texts_in_json() -> list[TextRequest | ValidationError]:
    """Return the requests of a batch; an invalid one is returned as its error and fails alone.

    Raises ValidationError for a body that is no batch.
    """
    batch = validated(services().request_models.batch, parsing.json_object(check_strings=False))
    return [_one_text(item) for item in batch.prompts]


def _one_text(item: object) -> TextRequest | ValidationError:
    try:
        return validated(services().request_models.text_in_batch, item if isinstance(item, dict) else {"prompt": item})
    except ValidationError as error:
        return error


def text_in_form() -> tuple[TextForm, Turns]:
    """Return the request in a form of the page, and the turns that it goes on from.

    Its fields stay in the request's state, to fill the form again.
    """
    form = _remembered(parsing.submitted_form())
    _refuse_files(form, ())
    fields, turns = follow_up.asked("text", form.fields)
    return validated(services().request_models.text, numbers_in(fields)), turns


def image_in_json() -> tuple[ImageJsonRequest, Images]:
    """Return the request and the images of a JSON body."""
    body = validated(services().request_models.image_json, parsing.json_object())
    return body, image_reading.checked(body.image, parsing.image_in_data_url)


def image_in_upload() -> tuple[StreamedImageRequest, Images]:
    """Return the request and the images of a form sent to the API."""
    form = parsing.submitted_form()
    return _image_in(form, services().request_models.image_form, _history_in(form.fields))


def image_in_form() -> tuple[ImageRequest, Images, Turns]:
    """Return the request and the images in a form of the page, and the turns that it goes on from.

    Fields and images stay in the request's state, as with `remember`.
    """
    form = _remembered(kept_image.form_with_image())
    fields, turns = follow_up.asked("image", form.fields)
    return *_image_in(parsing.Form(fields, form.files), services().request_models.image), turns


def remember() -> None:
    """Keep a form of the page that was refused before it was read. Raises ValidationError."""
    _remembered(kept_image.form_with_image())


def _remembered(form: parsing.Form) -> parsing.Form:
    """Keep the fields and the images of a form in the request's state, to fill the form again."""
    state = request_state()
    state.typed, state.images = form.fields, form.files.get("image", ())
    return form


def _history_in(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the history in a form, where it is the text of a JSON list; what is none is left to the validation."""
    if "history" not in fields:
        return {}
    try:
        return {"history": read_json(fields["history"].encode())}
    except ValidationError:
        return {}


def _image_in(
    form: parsing.Form, model: type[AnyRequest], more: Mapping[str, Any] | None = None
) -> tuple[AnyRequest, Images]:
    """Return the request and the images in a form. more: values of fields that are not as they are in the form."""
    _refuse_files(form, ("image",))
    if "image" in form.fields:
        raise ValidationError(Message("image_not_a_file", "image must be a file."), "image")
    body = validated(model, numbers_in(form.fields) | dict(more or {}))
    return body, image_reading.checked(form.files.get("image", ()), bytes)


def _refuse_files(form: parsing.Form, expected: tuple[str, ...]) -> None:
    for name in form.files:
        if name not in expected:
            raise unknown_field(shown_name(name))
