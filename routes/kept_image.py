"""A picture that comes back with the next question. Where no script runs, a page that has answered about a picture
carries it in a field of its own form, and the browser sends it again: nothing of it is kept on the server.
"""

from __future__ import annotations

import base64

from routes import parsing
from routes.parsing import Form

FIELD = "kept_image"
MAX_BYTES = 3 * 1024 * 1024  # of a picture, so that the page that carries it still comes soon
FIELD_BYTES = 4 * (MAX_BYTES // 3 + 1)


def packed(picture: bytes) -> str | None:
    """Return the picture as the field's text, None where it is too large to come back."""
    return base64.b64encode(picture).decode() if len(picture) <= MAX_BYTES else None


def form_with_picture() -> Form:
    """Return the request's form, the picture that came back as its image unless another was chosen.

    Raises ValidationError.
    """
    form = parsing.form(FIELD_BYTES)
    fields = {name: value for name, value in form.fields.items() if name != FIELD}
    if FIELD not in form.fields or form.files:
        return Form(fields, form.files)
    return Form(fields, {"image": parsing.picture_in_base64(form.fields[FIELD])})
