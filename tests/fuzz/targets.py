"""What is fuzzed: one harness for each parser that reads a stranger's bytes.

A harness takes any bytes. It may raise nothing: what the parser is allowed to raise is caught there, and what it
promises of its result is asserted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing, suppress
from io import BytesIO
from typing import cast

from flask import Flask
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser
from werkzeug.exceptions import RequestEntityTooLarge

from edge.request_head import read_head
from edge.request_state import RequestState, put
from engine.errors import ServiceError
from engine.text.images import MAX_IMAGE_PIXELS, check_header, decode
from engine.text.schema.patterns import Untranslatable, conjuncts
from keys.account import of_address
from routes.chat.schemas import rewritten
from routes.json_text import MAX_DEPTH, read_json
from routes.parsing import image_in_data_url, submitted_form
from routes.request_models import numbers_in
from serving.framing import Framing, Stage
from serving.malformed import read_attempt
from telemetry.observer import RequestObserver

DECODED_PIXELS = 250_000  # larger images are not decoded: their pixels only cost time
BYTEWISE = 4096  # longer requests are not fed byte by byte as well
APP = Flask(__name__)
CONFIG = Config()
UNWATCHED = cast(RequestObserver, None)  # nothing is reported of a form


def image(data: bytes) -> None:
    """An image is refused with a typed error, or has the size that its header told, within the limits."""
    try:
        header = check_header(data)
        assert 0 < header.width * header.height <= MAX_IMAGE_PIXELS
        if header.width * header.height > DECODED_PIXELS:
            return
        decoded = decode(header)
    except ServiceError:
        return
    assert decoded.mode == "RGB"
    assert sorted(decoded.size) == sorted((header.width, header.height))


def json_text(data: bytes) -> None:
    """A text that is read has the value that the library reads; what is refused has a typed error."""
    try:
        value = read_json(data)
    except ServiceError:
        return
    assert value == json.loads(data.decode("utf-8-sig")), "read as something else"
    assert _depth(value) <= MAX_DEPTH + 1
    json.dumps(value, ensure_ascii=False).encode()  # no lone surrogate


def data_url(data: bytes) -> None:
    """A data URL gives bytes, or a typed error."""
    text = data.decode("latin-1")
    with suppress(ServiceError):
        assert len(image_in_data_url(text)) <= len(text)
    with suppress(ServiceError):
        image_in_data_url("data:image/png;base64," + text)


def multipart(data: bytes) -> None:
    """A form of parts is read as unique fields and files of its own bytes, or refused. The first line: its boundary."""
    line, _, body = data.partition(b"\n")
    kind = "multipart/form-data; boundary=" + line.decode("latin-1")
    _form(body, kind.replace("\r", ""))


def form(data: bytes) -> None:
    """A form of the other kind, likewise."""
    _form(data, "application/x-www-form-urlencoded")


def http_head(data: bytes) -> None:
    """Framing is the same however the bytes arrive, loses none, and what is whole is what Gunicorn's parser reads."""
    with closing(Framing()) as at_once, closing(Framing()) as apart:
        rest = at_once.feed(data)
        if at_once.stage in (Stage.BODY, Stage.WHOLE):  # whole lines may be taken out; none is made
            sent = iter(data.split(b"\r\n"))
            assert all(line in sent for line in at_once.head.removesuffix(b"\r\n\r\n").split(b"\r\n"))
        read_attempt(at_once.head)
        if (head := read_head(at_once.head)) is not None:
            assert head.path
            _ = head.mimetype, head.keeps_alive
        accepted = at_once.stage is Stage.WHOLE and _is_read_by_gunicorn(at_once, data[: len(data) - len(rest)])
        if len(data) <= BYTEWISE:
            _feed_apart(apart, data)
            if apart.stage is Stage.BROKEN:  # known before its end, where it comes in pieces
                assert not accepted
            else:
                assert at_once.stage is apart.stage
                assert at_once.head == apart.head
                assert at_once.body_received == apart.body_received


def schema(data: bytes) -> None:
    """A JSON schema is rewritten as one that the grammar library reads, or refused with a typed error."""
    try:
        value = read_json(data)
        written = rewritten(value, "schema")
    except ServiceError:
        return
    assert json.loads(json.dumps(written)) == written


def pattern(data: bytes) -> None:
    """A pattern of a schema is translated to patterns without look-around, or is none."""
    with suppress(Untranslatable):
        for part in conjuncts(data.decode("utf-8", "replace")):
            assert "(?=" not in part
            assert "(?!" not in part


TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": image,
    "json": json_text,
    "data_url": data_url,
    "multipart": multipart,
    "form": form,
    "http_head": http_head,
    "schema": schema,
    "pattern": pattern,
}


def _feed_apart(framing: Framing, data: bytes) -> None:
    """Feed byte by byte, until the request is whole or is none."""
    for byte in data:
        if framing.stage in (Stage.HEAD, Stage.BODY):
            framing.feed(bytes([byte]))


def _form(body: bytes, kind: str) -> None:
    with APP.test_request_context("/", method="POST", data=body, content_type=kind):
        put(RequestState(0.0, None, "fuzz", "unknown", of_address("unknown"), UNWATCHED))
        try:
            read = submitted_form()
        except (ServiceError, RequestEntityTooLarge):
            return
        numbers_in(read.fields)
        assert sum(len(file) for files in read.files.values() for file in files) <= len(body)


def _is_read_by_gunicorn(framing: Framing, sent: bytes) -> bool:
    """Return whether the parser reads the request, and check that it reads all of it: what is left would be another."""
    framing.rewind()
    source = BytesIO(framing.read(len(sent) + 1))
    try:
        asked = next(RequestParser(CONFIG, _Source(source), ("127.0.0.1", 1)))
        asked.body.read()
    except (ParseException, NoMoreData, StopIteration):
        return False
    assert source.read() == b""
    return True


class _Source:
    """A socket of bytes."""

    def __init__(self, source: BytesIO) -> None:
        self._source = source

    def recv(self, size: int) -> bytes:
        return self._source.read(size)


def _depth(value: object) -> int:
    """Return how deeply lists and objects are nested."""
    deepest, level = 0, [value]
    while level:
        inner = [item for item in level if isinstance(item, dict | list)]
        deepest += bool(inner)
        level = [part for item in inner for part in (item.values() if isinstance(item, dict) else item)]
    return deepest
