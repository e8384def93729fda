"""Parses request bodies strictly: JSON objects, forms in valid UTF-8, images in base64. Knows no fields."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, NeedData

from edge import csrf
from edge.charset import check_charset
from edge.errors import Forbidden
from edge.request_state import request_state
from edge.route_table import MIB, MULTIPART
from engine.errors import Message, PayloadTooLarge, ValidationError
from engine.text.images import MAX_IMAGE_BYTES, TOO_LARGE
from routes import base64_text, urlencoded
from routes.json_text import MAX_ENCODED_IMAGE, USUAL, JsonLimits, check_beginning, read_json, repeated
from routes.json_values import shown_name
from routes.long_text import with_line_feeds
from routes.multipart import Decoder

MAX_PARTS = 32
MAX_BOUNDARY = 70  # characters (RFC 2046, section 5.1.1); all of a body is searched for it
FIELD_BYTES = MIB  # of a field that is not a file
NOT_UTF8 = Message("body_not_utf8", "The request body is not valid UTF-8.")
NONE_LONG: Mapping[str, int] = {}
READ_BYTES = 64 * 1024
PIECE_BYTES = 64 * 1024  # of a body, read at once
# Of any media type, or none, with any parameters; a browser drops white space in front of an address.
DATA_URL = re.compile(r"[ \t\r\n]{0,100}data:[^,]{0,1000}?;[ ]?base64[ ]?,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, and its files by the field that carried them; a field may have carried several."""

    fields: dict[str, str]
    files: dict[str, tuple[bytes, ...]]


def body(limits: JsonLimits | None = None) -> bytearray:
    """Return the whole body. Raises RequestEntityTooLarge if a body of unknown length is too long.

    Read in pieces into one buffer that is not copied again, which would hold the interpreter lock for all of a long
    body. limits: of a JSON text; one that is beyond them in its beginning is not read to its end, and refused with the
    error of `read_json`.
    """
    text, unchecked = bytearray(), limits is not None
    while piece := request.stream.read(PIECE_BYTES):
        text += piece
        if limits is not None and unchecked and len(text) > limits.text_bytes:
            check_beginning(text, limits)
            unchecked = False
    if request.max_content_length is not None and len(text) >= request.max_content_length:
        raise RequestEntityTooLarge
    return text


def json_object(limits: JsonLimits = USUAL, check_strings: bool = True) -> dict[str, Any]:
    """Return the request's JSON object. Raises as `read_json` does, and ValidationError for any other value."""
    value = read_json(body(limits), limits, check_strings)
    if not isinstance(value, dict):
        raise ValidationError("The request body must be a JSON object.")
    return value


def submitted_form(long: Mapping[str, int] = NONE_LONG) -> Form:
    """Return the request's form, of either content type, without its token.

    long: the fields that may have more than FIELD_BYTES, with the bytes that they may have; nobody types them, so their
    line ends stay. Raises ValidationError, RequestEntityTooLarge, and Forbidden without the token where the route wants
    one; what was typed then stays in the request's state.
    """
    form, state = _submitted(long), request_state()
    offered = form.fields.pop(csrf.FIELD, "")
    if state.by_session or (state.row is not None and state.row.form_token):
        try:
            csrf.check(offered)
        except Forbidden:
            state.typed, state.images = form.fields, form.files.get("image", ())
            raise
    return form


def _submitted(long: Mapping[str, int]) -> Form:
    try:
        if request.mimetype == MULTIPART:
            return _multipart(long)
        pairs = urlencoded.pairs(body(), MAX_PARTS)
        for name, value in pairs:
            _check_length(name, value, long)
        return Form(_fields(pairs, long), {})
    except UnicodeDecodeError as error:
        raise ValidationError(NOT_UTF8) from error
    except ValueError as error:
        raise ValidationError(Message("form_not_valid", "The request body is not a valid form.")) from error


def _check_length(name: str, value: str, long: Mapping[str, int]) -> None:
    """Raise RequestEntityTooLarge for a field that is too long; what is typed is shown again where it is refused."""
    most = long.get(name, FIELD_BYTES)
    if len(value) > most or (4 * len(value) > most and len(value.encode()) > most):
        raise RequestEntityTooLarge


def image_in_data_url(value: str) -> bytes:
    """Return the bytes of a base64 data URL (RFC 2397); what kind it says that they are does not matter.

    Raises ValidationError, and PayloadTooLarge as soon as it is too long.
    """
    match = DATA_URL.match(value)
    if match is None:
        raise ValidationError("image must be a base64 data URL, such as data:image/png;base64,...", "image")
    return image_in_base64(value, match.end())


def image_in_base64(encoded: str, begin: int = 0) -> bytes:
    """Return the bytes of an image in base64. Raises ValidationError, and PayloadTooLarge as soon as it is too long.

    begin: where it begins in `encoded`.
    """
    if len(encoded) - begin > MAX_ENCODED_IMAGE:
        raise PayloadTooLarge(TOO_LARGE)
    pieces, size = list[bytes](), 0
    try:
        for piece in base64_text.decoded(encoded, begin):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_IMAGE_BYTES:
                raise PayloadTooLarge(TOO_LARGE)
    except ValueError as error:
        raise ValidationError("image is not valid base64.", "image") from error
    return b"".join(pieces)


def _multipart(long: Mapping[str, int]) -> Form:
    boundary = request.mimetype_params.get("boundary", "")
    if not (0 < len(boundary) <= MAX_BOUNDARY and boundary.isascii() and boundary.isprintable()):
        raise ValueError("no boundary, or none that there can be")
    decoder = Decoder(boundary.encode(), max((FIELD_BYTES, *long.values())), MAX_PARTS)
    texts: list[tuple[str | None, str]] = []
    chosen: dict[str, tuple[bytes, ...]] = {}
    for part, data in _parts(decoder, long):
        if isinstance(part, Field):
            check_charset(parse_options_header(part.headers.get("Content-Type"))[1])
            texts.append((part.name, data.decode()))
        elif part.filename:  # a browser sends an empty part without a file name if no file was chosen
            name = part.name or ""
            chosen[name] = (*chosen.get(name, ()), data)
    return Form(_fields(texts, long), chosen)


def _parts(decoder: Decoder, long: Mapping[str, int]) -> Iterator[tuple[Field | File, bytes]]:
    """Yield the parts of the request's form, each with its content. Raises RequestEntityTooLarge and ValueError."""
    part: Field | File | None = None
    content = BytesIO()
    for event in _events(decoder):
        if isinstance(event, Field | File):
            if "\ufffd" in (event.name or ""):
                raise ValidationError(NOT_UTF8)
            part, content = event, BytesIO()
        elif isinstance(event, Data) and part is not None:
            content.write(event.data)
            if isinstance(part, Field) and content.tell() > long.get(part.name or "", FIELD_BYTES):
                raise RequestEntityTooLarge
            if not event.more_data:
                yield part, content.getvalue()


def _events(decoder: Decoder) -> Iterator[Event]:
    while True:
        data = request.stream.read(READ_BYTES)
        decoder.receive_data(data or None)
        while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
            yield event
        if not data:
            return


def _fields(pairs: Iterable[tuple[str | None, str]], as_sent: Container[str]) -> dict[str, str]:
    """Return the fields with line ends as they were typed: browsers send each as CR LF. as_sent: those without lines.

    Raises ValidationError for a name that is repeated.
    """
    found: dict[str, str] = {}
    for key, value in pairs:
        name = key or ""
        if name in found:
            raise repeated(shown_name(name))
        found[name] = value if name in as_sent else with_line_feeds(value)
    return found
