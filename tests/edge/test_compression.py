"""Compressed request bodies: read on every route that reads one, within the same limits, and refused where broken."""

import gzip
import json
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.compression import MAX_MEMBERS, PIECE_BYTES, Decompressed
from engine.errors import Overloaded, ValidationError
from tests.fakes import image_bytes, multipart
from tests.good_requests import TEXT

MIB = 2**20


def bare(data):
    """Return deflate data without zlib's header."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def in_members(data):
    """Return a gzip file of several members."""
    return b"".join(gzip.compress(data[start : start + 7]) for start in range(0, len(data), 7)) or gzip.compress(b"")


WAYS = [
    ("gzip", gzip.compress),
    ("GZip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("gzip", in_members),
    ("gzip", lambda data: gzip.compress(data, 0)),
    ("deflate", zlib.compress),
    ("deflate", bare),
    ("identity", bytes),
    ("Identity", bytes),
]


def stream(raw, coding="gzip", grow=lambda size: True):
    return Decompressed(BytesIO(raw), coding, grow)


@pytest.mark.parametrize(("coding", "compress"), [way for way in WAYS if way[0].lower() != "identity"])
@given(st.binary(max_size=300), st.integers(1, 50))
def test_what_was_compressed_is_read(coding, compress, data, size):
    """In pieces of any size, which are never longer than asked for."""
    body = stream(compress(data), coding.lower())
    pieces = list(iter(lambda: body.read(size), b""))
    assert b"".join(pieces) == data
    assert all(len(piece) <= size for piece in pieces)
    assert body.read(size) == b""


@pytest.mark.parametrize(("coding", "compress"), WAYS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", TEXT, "/api/v1/text/batch"])
def test_every_json_route_reads_compressed_bodies(client, coding, compress, path):
    """With or without Content-Length."""
    bodies = {
        "/v1/chat/completions": {"model": "avibe", "messages": [{"role": "user", "content": "Привет!"}]},
        "/v1/completions": {"model": "avibe", "prompt": "x"},
        TEXT: {"prompt": "x"},
        "/api/v1/text/batch": {"prompts": ["x"]},
    }
    data = compress(json.dumps(bodies[path]).encode())
    sent = {"content_type": "application/json", "headers": {"Content-Encoding": coding}}
    assert client.post(path, data=data, **sent).status_code == 200
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert client.post(path, input_stream=BytesIO(data), environ_overrides=chunked, **sent).status_code == 200


def test_forms_and_their_images_are_read_compressed(client, avision):
    """Those of the page as well."""
    for path in ("/api/v1/image/analyze", "/avision"):
        upload = multipart([("prompt", "?"), ("image", (image_bytes(), "a.png"))])
        sent = {"data": gzip.compress(upload["data"]), "content_type": upload["content_type"]}
        assert client.post(path, headers={"Content-Encoding": "gzip"}, **sent).status_code == 200
    assert [request.prompt.images[0].data for request in avision.submitted] == [image_bytes()] * 2


WHOLE = gzip.compress(b'{"prompt": "x"}')


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        WHOLE[:-1],
        WHOLE[:12],
        WHOLE[:-8] + b"\0" * 8,
        WHOLE + b"more",
        WHOLE[:-4] + b"\1\0\0\0",
        b"\x1f\x8b",
    ],
    ids=["empty", "none", "cut", "cut early", "checksum", "more behind", "length", "header alone"],
)
def test_broken_data_is_the_clients_mistake(client, raw):
    """Refused as one, whatever is wrong with it."""
    sent = {"data": raw, "content_type": "application/json", "headers": {"Content-Encoding": "gzip"}}
    for path in (TEXT, "/v1/chat/completions"):
        response = client.post(path, **sent)
        assert response.status_code == 400
        assert "gzip" in response.text


def test_the_limit_of_a_body_is_that_of_what_comes_out(client):
    """Exactly the limit is read, one byte more is not, however short the compressed body is."""
    fits = b'{"prompt": "x"}'.ljust(MIB)
    for data, status in ((fits, 200), (fits + b" ", 413)):
        sent = {
            "data": gzip.compress(data),
            "content_type": "application/json",
            "headers": {"Content-Encoding": "gzip"},
        }
        assert client.post(TEXT, **sent).status_code == status


def test_the_compressed_bytes_have_the_same_limit(client):
    """Data that decompresses into nothing is not read without end."""
    nothing = b"\0\0\0\xff\xff" * (MIB // 4)  # empty stored blocks
    sent = {"content_type": "application/json", "headers": {"Content-Encoding": "deflate"}}
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    response = client.post(TEXT, input_stream=BytesIO(nothing), environ_overrides=chunked, **sent)
    assert response.status_code == 413


def test_members_are_bounded_in_number():
    """Each takes time, even if it is empty."""
    empty = gzip.compress(b"")
    assert stream(empty * MAX_MEMBERS).read() == b""
    with pytest.raises(ValidationError):
        stream(empty * (MAX_MEMBERS + 1)).read()


def test_what_comes_out_counts_in_the_budget_of_bodies():
    """Piece by piece, and the first that finds no room ends it."""
    grown = []

    def grow(size):
        grown.append(size)
        return sum(grown) <= 3 * PIECE_BYTES

    body = stream(gzip.compress(bytes(MIB)), grow=grow)
    with pytest.raises(Overloaded):
        body.read()
    assert grown == [PIECE_BYTES] * 4


class Connection:
    """The server's socket, as far as it is used, with room for so many bytes."""

    def __init__(self, room):
        self.room = room

    def fileno(self):
        return -1

    def grow_body(self, size):
        self.room -= size
        return self.room >= 0

    def release_body(self):
        pass


@pytest.mark.parametrize(("room", "status"), [(2 * MIB, 200), (1000, 503)])
def test_a_body_without_room_is_told_to_come_again(client, room, status):
    """503 with Retry-After, as for a body that finds no room before it is read."""
    data = gzip.compress(b'{"prompt": "x"}'.ljust(MIB))
    sent = {"content_type": "application/json", "headers": {"Content-Encoding": "gzip"}}
    response = client.post(TEXT, data=data, environ_overrides={"gunicorn.socket": Connection(room)}, **sent)
    assert response.status_code == status
    assert ("Retry-After" in response.headers) == (status == 503)


class TestLimited:
    """With a limit of requests."""

    @pytest.fixture
    def environ(self, environ):
        return environ | {"RATE_LIMIT_PER_MINUTE": "2"}

    @pytest.mark.parametrize(
        ("path", "megabytes"), [("/v1/chat/completions", 65), ("/v1/responses", 65), ("/api/v1/text/batch", 5)]
    )
    def test_a_body_that_is_too_long_once_it_is_unpacked_is_charged(self, client, path, megabytes):
        """It is small as it is sent, and costs as much as any other to refuse: whoever goes on is told so."""
        packed = gzip.compress(b'{"model":"avibe","input":"data:' + b"A" * megabytes * MIB, 1)
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        statuses = [client.post(path, data=packed, headers=headers).status_code for _ in range(3)]
        assert statuses == [413, 413, 429]
