"""An image that the browser sends again with the next question. Without JavaScript, the page with an answer holds the
image in a field of its form, so the server stores nothing.
"""

from __future__ import annotations

import base64

from routes import parsing
from routes.parsing import Form

FIELD = "kept_image"
MAX_BYTES = 3 * 1024 * 1024  # of an image, which bounds the size of the page
FIELD_BYTES = 4 * (MAX_BYTES // 3 + 1)


def packed(image: bytes) -> str | None:
    """Return the image as the text of the field, None if it is too large."""
    return base64.b64encode(image).decode() if len(image) <= MAX_BYTES else None


def form_with_image() -> Form:
    """Return the request's form, with the kept image unless another one was chosen.

    Raises ValidationError.
    """
    form = parsing.submitted_form(FIELD_BYTES)
    fields = {name: value for name, value in form.fields.items() if name != FIELD}
    if FIELD not in form.fields or form.files:
        return Form(fields, form.files)
    return Form(fields, {"image": parsing.image_in_base64(form.fields[FIELD])})
