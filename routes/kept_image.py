"""Images that the browser sends again with the next question. Without JavaScript, the page with an answer holds the
images in a field of its form, so the server stores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from engine.text.images import MAX_IMAGES
from routes import base64_text, parsing
from routes.parsing import Form

FIELD = "kept_image"
BETWEEN = ","  # no letter of base64
MAX_BYTES = 3 * 1024 * 1024  # of all images together, which bounds the size of the page
FIELD_BYTES = 4 * (MAX_BYTES // 3 + MAX_IMAGES) + MAX_IMAGES


def packed(images: Sequence[bytes]) -> Markup | None:
    """Return the images as the text of the field, None if they are too large.

    No letter of it has a meaning in HTML, and to look for such letters would hold the interpreter lock.
    """
    small = sum(map(len, images)) <= MAX_BYTES
    return Markup(BETWEEN.join(map(base64_text.encoded, images))) if small else None  # nosec B704 # letters of base64


def form_with_image() -> Form:
    """Return the request's form, with the kept images unless others were chosen.

    Raises ValidationError.
    """
    form = parsing.submitted_form({FIELD: FIELD_BYTES})
    fields = {name: value for name, value in form.fields.items() if name != FIELD}
    if FIELD not in form.fields or form.files:
        return Form(fields, form.files)
    kept = form.fields[FIELD].split(BETWEEN, MAX_IMAGES)
    return Form(fields, {"image": tuple(map(parsing.image_in_base64, kept))})
