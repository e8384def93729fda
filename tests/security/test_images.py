"""Images that crashed or exposed other servers, or bypassed Pillow's own limits; see docs/known-vulnerabilities.md."""

import base64

import pytest
from PIL import Image

from engine.text.images import MAX_IMAGE_BYTES, check_header, decode
from engine.text.processor import ImagePreparer, load_processor
from engine.wanted import Wanted
from routes import parsing
from routes.chat.conversation import MAX_IMAGES

URL = "/api/v1/image/analyze"
UNSUPPORTED = ["TIFF", "DDS", "ICNS", "PPM", "TGA", "SGI", "PDF", "EPS", "JPEG2000", "SPIDER", "PCX"]


def send(client, image, name="a.png"):
    body = b'--limit\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nHello\r\n'
    body += f'--limit\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return client.post(
        URL, data=body + image + b"\r\n--limit--\r\n", content_type="multipart/form-data; boundary=limit"
    )


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_only_our_formats_are_given_to_pillow(client, avision, encoded, kind):
    """Known by content, so the decoders of all other formats, and their vulnerabilities, cannot be reached."""
    response = send(client, encoded(kind=kind))
    assert response.status_code == 415
    assert (avision.submitted, avision.decoded) == ([], [])


@pytest.mark.parametrize(
    "data",
    [
        b"SIMPLE  =                    T / FITS" + b" " * 2843,
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"<!DOCTYPE html><script>alert(1)</script>",
        b"RIFF\x24\x00\x00\x00WAVEfmt <html><script>alert(1)</script>",
        b"STARTFONT 2.1\nFONTBOUNDINGBOX 99999 99999 0 0\n",
        b"\xff\xfe" + b"\xff" * 1037,
    ],
    ids=["FITS", "SVG", "HTML", "WAV and HTML", "BDF", "GD"],
)
def test_what_only_claims_to_be_an_image_is_refused(client, avision, data):
    """Whatever its name says; nothing that a browser would run is accepted, stored or returned."""
    response = send(client, data)
    assert response.status_code == 415
    assert b"<script>" not in response.data
    assert avision.submitted == []


def promising(encoded, width, height):
    """Return a PNG of a few bytes whose header promises this size."""
    data = encoded((1, 1))
    return data[:16] + width.to_bytes(4) + height.to_bytes(4) + data[24:]


@pytest.mark.parametrize(
    ("urls", "status"),
    [
        (lambda encoded: [promising(encoded, 16_384, 16_384)], 413),
        (lambda encoded: [promising(encoded, 2**31 - 1, 1)], 413),
        (lambda encoded: [bytes(MAX_IMAGE_BYTES + 3)], 413),
        (lambda encoded: [encoded()] * (MAX_IMAGES + 1), 400),
    ],
    ids=["pixels", "side", "bytes", "number"],
)
def test_what_is_beyond_a_limit_is_not_decoded(client, avision, encoded, monkeypatch, urls, status):
    """Pixels are known from the header, bytes from the length of the base64, and further images are not looked at."""
    decoded, decode_text = [], parsing.image_in_base64
    monkeypatch.setattr(parsing, "image_in_base64", lambda *text: decoded.append(decode_text(*text)) or decoded[-1])
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}
        for data in urls(encoded)
    ]
    body = {"model": "avision", "messages": [{"role": "user", "content": parts}]}
    assert client.post("/v1/chat/completions", json=body).status_code == status
    assert (avision.submitted, avision.decoded) == ([], [])
    assert len(decoded) <= MAX_IMAGES
    assert sum(map(len, decoded)) <= MAX_IMAGE_BYTES


def test_a_frame_that_is_not_shown_is_not_decoded(encoded, monkeypatch):
    """Of a JPEG that contains further, larger images only the first one is decoded."""
    data = encoded((32, 24), "MPO", frames=((640, 480), (800, 600)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow itself would refuse to look further
    header = check_header(data)
    assert (header.width, header.height) == decode(header).size == (32, 24)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (1, 199), (199, 1), (2, 2)])
def test_an_image_of_a_few_pixels_is_prepared(vision_checkpoint, encoded, size):
    """Its height is never mistaken for its channels; the tokens are those of its grid."""
    processor = ImagePreparer(load_processor(vision_checkpoint), max_tokens=512)
    inputs = processor.prepare((check_header(encoded(size)),), Wanted())
    assert len(inputs.pixel_values()) == int(inputs.grid_thw.prod())


def test_images_of_equal_bytes_and_other_shape_differ(vision_checkpoint, encoded):
    """The prefix cache distinguishes 56 x 112 from 112 x 56 although the pixels are the same bytes."""
    processor = ImagePreparer(load_processor(vision_checkpoint), max_tokens=512)
    hashes = set()
    for size in ((56, 112), (112, 56), (84, 56), (56, 84)):
        hashes.update(processor.prepare((check_header(encoded(size)),), Wanted()).hashes)
    assert len(hashes) == 4


@pytest.mark.parametrize("keep", [9, 40, 100, -30])
def test_the_message_about_a_damaged_image_has_no_address(client, encoded, keep):
    """The message contains no object, address, path or text of a library."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "ICO"):
        response = send(client, encoded((300, 200), kind)[:keep])
        assert response.status_code in (200, 400, 415)
        assert not any(
            word in response.text for word in ("0x", "object at", "BytesIO", "PIL", "Error(", "/home", ".py")
        )
