"""Images at the JSON API: in forms and in JSON, and their refusals."""

import base64
import json
import re

import pytest

from engine.text import images
from routes.base64_text import PIECE
from tests.fakes import image_bytes, multipart
from tests.routes.test_api import IMAGE, refused, upload

# Padding in the middle, where a piece that is decoded alone ends.
SPLIT = "data:image/png;base64," + "A" * (PIECE - 1) + "=AAAA"


EMPTY = "Image 2: The image is empty."
IMAGE_PART = ("image", (image_bytes(), "a.png"))
PROMPT = ("prompt", "x")


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_a_form_and_json_are_the_same_request(client, avision):
    """Both give the model the same bytes and get the same answer."""
    data = image_bytes()
    in_form = client.post(IMAGE, **upload(data, max_tokens="9", temperature="0.5"))
    body = {"prompt": "What is it?", "image": data_url(data), "max_tokens": 9, "temperature": 0.5}
    in_json = client.post(IMAGE, json=body)
    assert in_form.status_code == in_json.status_code == 200
    assert in_form.json["data"] == in_json.json["data"]
    first, second = avision.submitted
    assert first.prompt == second.prompt
    assert first.prompt.images[0].data == data
    assert first.sampling == second.sampling
    assert first.prompt.messages[0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert in_form.headers["X-Model"] == "avision"


def test_up_to_four_images_belong_to_one_question(client, avision):
    """In their order, in a form and in a list of JSON; one alone may stand in a list too."""
    photos = [image_bytes(colour) for colour in ("red", "green", "blue", "white")]
    in_form = client.post(IMAGE, **multipart([PROMPT, *(("image", (photo, "a.png")) for photo in photos)]))
    in_json = client.post(IMAGE, json={"prompt": "x", "image": [data_url(photo) for photo in photos]})
    alone = client.post(IMAGE, json={"prompt": "x", "image": [data_url(photos[0])]})
    assert in_form.status_code == in_json.status_code == alone.status_code == 200
    first, second, third = avision.submitted
    assert [image.data for image in first.prompt.images] == photos
    assert first.prompt == second.prompt
    assert first.prompt.messages[0]["content"] == [{"type": "image"}] * 4 + [{"type": "text", "text": "x"}]
    assert [image.data for image in third.prompt.images] == photos[:1]


@pytest.mark.parametrize(
    ("images", "status", "sentence"),
    [
        ([], 400, "image must be a base64 data URL, or a list of 1 to 4 of them."),
        (5, 400, "image must be a base64 data URL, or a list of 1 to 4 of them."),
        (["x"] * 5, 400, "A request may carry at most 4 images."),
        ([data_url(image_bytes()), 5], 400, "image[1] must be a string."),
        ([data_url(image_bytes()), data_url(b"text")], 415, "Image 2: The file is not a picture that can be read."),
        ([data_url(image_bytes().ljust(9_200_000, b"\0"))] * 2, 413, "The images are too large together."),
    ],
)
def test_a_list_of_images_is_refused_by_what_is_wrong_with_it(client, avision, images, status, sentence):
    """The count, what they are, which of them cannot be read, and their size together."""
    response = client.post(IMAGE, json={"prompt": "x", "image": images})
    assert response.status_code == status
    assert response.json["message"].startswith(sentence)
    assert avision.submitted == []


def test_the_number_of_an_image_is_told_in_the_readers_language(client):
    """With what is wrong with it."""
    form = multipart([PROMPT, IMAGE_PART, ("image", (b"text", "b.png"))])
    response = client.post(IMAGE, **form, headers={"X-Message-Language": "ru"})
    assert response.json["message"].startswith("Картинка 2: Этот файл не похож на картинку.")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "validation_error"),
        (b"just some text", 415, "unsupported_media_type"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported_media_type"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", 415, "unsupported_media_type"),
        (image_bytes()[:60], 400, "validation_error"),
        (image_bytes(size=(201, 1)), 400, "validation_error"),
        (b"\x89PNG\r\n\x1a\n" + bytes(16 * 1024 * 1024), 413, "payload_too_large"),
    ],
    ids=["empty", "text", "svg", "heic", "truncated", "narrow", "large"],
)
@pytest.mark.parametrize("way", ["form", "json"])
def test_invalid_images_are_refused_in_both(client, avision, way, data, status, code):
    """400, 413 or 415, and nothing is generated."""
    if way == "form":
        response = client.post(IMAGE, **upload(data))
    else:
        response = client.post(IMAGE, json={"prompt": "x", "image": data_url(data)})
    refused(response, status, code)
    assert avision.submitted == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ([PROMPT], "image is required."),
        ([PROMPT, ("image", "not a file")], "image must be a file."),
        ([PROMPT, ("image", (b"", ""))], "image is required."),
        ([IMAGE_PART], "prompt is required."),
        ([PROMPT, *[IMAGE_PART] * 5], "A request may carry at most 4 images."),
        ([PROMPT, IMAGE_PART, ("image", (b"", "b.png"))], EMPTY),
        ([PROMPT, PROMPT, IMAGE_PART], "prompt was sent more than once."),
        ([PROMPT, ("photo", (image_bytes(), "a.png"))], "Unknown field: photo."),
        ([PROMPT, IMAGE_PART, ("top_k", "5")], "Unknown field: top_k."),
        ([PROMPT, IMAGE_PART, ("max_tokens", "five")], "max_tokens must be an integer from 1 to 2048."),
        ([PROMPT, IMAGE_PART, ("temperature", "nan")], "temperature must be a number from 0 to 2."),
    ],
)
def test_each_mistake_in_a_form_is_named(client, fields, sentence):
    """Forms have the same rules as JSON."""
    response = client.post(IMAGE, **multipart(fields))
    assert refused(response, 400, "validation_error") == sentence


def test_blank_numbers_of_a_form_count_as_absent(client, avision):
    """A browser sends every field of a form, empty ones too."""
    assert client.post(IMAGE, **upload(image_bytes(), max_tokens="", temperature=" ")).status_code == 200
    assert avision.only.sampling.max_tokens == 200


@pytest.mark.parametrize(
    "image",
    ["https://example.com/a.png", "data:image/png,abc", "iVBORw0KGgo=", "data:image/png;base64,!!!", SPLIT],
)
def test_json_accepts_only_base64_data_urls(client, image):
    """Nothing is fetched from other addresses, and invalid base64 is refused."""
    message = refused(client.post(IMAGE, json={"prompt": "x", "image": image}), 400, "validation_error")
    assert message.startswith("image")


KINDS = [
    *("image/png", "IMAGE/PNG", "image/x-anything", "application/octet-stream", "text/plain", ""),
    *("image/png;charset=utf-8", ";charset=utf-8", 'image/png;name="a b.png"', "image/png;a=b;c=d", "image/svg+xml;x"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_data_url_may_say_anything_of_its_kind(client, avision, kind):
    """With parameters and without; the content decides."""
    data = image_bytes()
    for url in (data_url(data, kind), data_url(data, kind).replace("base64", "BASE64")):
        assert client.post(IMAGE, json={"prompt": "x", "image": url}).status_code == 200
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        chat = {"model": "avision", "messages": [{"role": "user", "content": parts}]}
        assert client.post("/v1/chat/completions", json=chat).status_code == 200
    assert {request.prompt.images[0].data for request in avision.submitted} == {data}


@pytest.mark.parametrize(
    "write",
    [base64.encodebytes, base64.urlsafe_b64encode, lambda data: base64.b64encode(data).rstrip(b"=")],
    ids=["in lines", "url-safe", "without padding"],
)
def test_base64_is_read_as_clients_write_it(client, avision, write):
    """Wherever an image is read in it, also in JSON that escapes what it need not."""
    for size in ((64, 48), (65, 48), (66, 48), (641, 480)):
        data = image_bytes("blue", size)
        url = "data:image/png;base64," + write(data).decode()
        body = json.dumps({"prompt": "x", "image": url}).replace("/", "\\/")
        assert client.post(IMAGE, data=body, content_type="application/json").status_code == 200
        assert avision.submitted[-1].prompt.images[0].data == data


@pytest.mark.slow
def test_the_largest_image_may_be_in_lines(client, avision):
    """White space does not count against the size of an image."""
    data = image_bytes().ljust(images.MAX_IMAGE_BYTES, b"\0")
    url = "data:image/png;base64," + base64.encodebytes(data).decode()
    assert client.post(IMAGE, json={"prompt": "x", "image": url}).status_code == 200
    assert avision.only.prompt.images[0].data == data
    longer = "data:image/png;base64," + base64.encodebytes(data + b"\0").decode()
    refused(client.post(IMAGE, json={"prompt": "x", "image": longer}), 413, "payload_too_large")


@pytest.mark.parametrize("more", [8, 1_500_000])
def test_a_data_url_over_the_limit_is_refused(client, more):
    """As soon as more is decoded than an image may have, or the text is too long for one at all."""
    image = "data:image/png;base64," + "A" * (22_369_624 + more)
    refused(client.post(IMAGE, json={"prompt": "x", "image": image}), 413, "payload_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\nContent-Disposition: form-data; name=prompt\r\n\r\n\xff\xfe\r\n--b--\r\n",
        b"no boundary in here",
        b"--b\r\nbroken",
        b"",
    ],
)
def test_a_broken_form_is_refused(client, body):
    """Invalid UTF-8, a missing boundary and a form that ends early are refused with 400."""
    response = client.post(IMAGE, data=body, content_type="multipart/form-data; boundary=b")
    refused(response, 400, "validation_error")
    refused(client.post(IMAGE, data=body, content_type="multipart/form-data"), 400, "validation_error")


def test_too_many_parts_are_refused(client):
    """A form of a hundred fields is not parsed to its end."""
    fields = [(f"field{number}", "x") for number in range(100)]
    response = client.post(IMAGE, **multipart(fields))
    refused(response, 413, "payload_too_large")


def test_a_problem_with_a_number_is_in_one_language(client):
    """The whole sentence, or the one for its code where the problem has no translation."""
    told = []
    for second in ("data:,", data_url(b"")):
        body = {"prompt": "x", "image": [data_url(image_bytes()), second]}
        told.append(client.post(IMAGE, json=body, headers={"X-Message-Language": "ru"}).json["message"])
    assert told[1].startswith("Картинка 2: ")
    assert not [text for text in told if re.search("[A-Za-z]{4}", text)]
