"""Without JavaScript: the page holds all that was sent, the image too, and the server stores nothing."""

import base64
import html
import re

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import ModelError
from routes import pages, parsing
from routes.kept_image import FIELD, FIELD_BYTES, MAX_BYTES, packed
from tests.fakes import image_bytes, multipart

LARGE = image_bytes() + bytes(MAX_BYTES)


def upload(data=None, *fields):
    return multipart([("image", (data or image_bytes(), "a.png")), ("prompt", "What is it?"), *fields])


def again(kept, *fields):
    """Return what a browser sends with the next question and no chosen file."""
    return multipart([("image", (b"", "")), (FIELD, kept), ("prompt", "And now?"), *fields])


def kept_in(page):
    """Return the image that a page holds, None if there is none."""
    found = re.search(rf'name="{FIELD}" value="([^"]*)"', page)
    return html.unescape(found[1]) if found else None


def test_several_images_are_kept_together(client, avision):
    """In their order, as long as they are small together; one too many is refused like any other."""
    photos = [image_bytes(colour) for colour in ("red", "green", "blue", "white")]
    page = client.post("/avision", **upload(photos[0], *(("image", (photo, "b.png")) for photo in photos[1:]))).text
    assert [base64.b64decode(kept) for kept in kept_in(page).split(",")] == photos
    client.post("/avision", **again(kept_in(page)))
    assert [[image.data for image in request.prompt.images] for request in avision.submitted] == [photos] * 2
    assert client.post("/avision", **again(",".join([kept_in(page), kept_in(page)]))).status_code == 400
    half = image_bytes() + bytes(MAX_BYTES // 2)
    page = client.post("/avision", **upload(half, ("image", (half, "b.png")))).text
    assert kept_in(page) is None


def required(page):
    """Return whether the form requires a file."""
    return bool(re.search(r'name="image" required', page))


def test_a_second_question_needs_no_second_upload(client, avision):
    """The page holds the image byte for byte, and every next question is about it."""
    page = client.post("/avision", **upload()).text
    assert base64.b64decode(kept_in(page)) == image_bytes()
    assert "The next question is about the same picture or pictures" in page
    assert not required(page)
    for _ in range(2):
        page = client.post("/avision", **again(kept_in(page))).text
        assert "An answer." in page
    assert [request.prompt.images[0].data for request in avision.submitted] == [image_bytes()] * 3


def test_a_chosen_image_replaces_the_kept_one(client, avision):
    """The question is about it, and the page holds it from then on."""
    kept = kept_in(client.post("/avision", **upload()).text)
    page = client.post("/avision", **upload(image_bytes("blue"), (FIELD, kept))).text
    assert avision.submitted[-1].prompt.images[0].data == image_bytes("blue")
    assert base64.b64decode(kept_in(page)) == image_bytes("blue")


def test_a_large_image_has_to_be_chosen_again(client):
    """The page stays small and says what to do."""
    page = client.post("/avision", **upload(LARGE)).text
    assert kept_in(page) is None
    assert "choose the pictures again" in page
    assert required(page)
    assert 'href="#image-file"' in page
    assert "formnovalidate form" not in page


def test_what_goes_on_from_a_kept_image_needs_no_file(client):
    """Whatever else is in the form is not looked at by the browser."""
    page = client.post("/avision", **upload()).text
    assert "formnovalidate form" in page
    assert 'href="#image-file"' not in page


def test_the_largest_kept_image_is_accepted(client, avision):
    """The limit of the field fits the limit of kept images."""
    data = image_bytes() + bytes(MAX_BYTES - len(image_bytes()))
    kept = kept_in(client.post("/avision", **upload(data)).text)
    assert len(kept) <= FIELD_BYTES
    assert client.post("/avision", **again(kept)).status_code == 200
    assert avision.submitted[-1].prompt.images[0].data == data


def test_a_failure_loses_no_image(client, avision):
    """After any failure the question can be sent again; a new page has no image."""
    avision.failure = ModelError("The model failed on this request.")
    page = client.post("/avision", **upload()).text
    assert base64.b64decode(kept_in(page)) == image_bytes()
    page = client.post("/avision", **again(kept_in(page), ("max_tokens", "x"))).text
    assert base64.b64decode(kept_in(page)) == image_bytes()
    assert kept_in(client.get("/").text) is None


@pytest.mark.parametrize("data", [b"text", image_bytes()[:60], image_bytes(size=(300, 1))])
def test_an_image_that_cannot_be_read_is_not_kept(client, data):
    """It would only fail again."""
    page = client.post("/avision", **upload(data)).text
    assert kept_in(page) is None
    assert required(page)


@pytest.mark.parametrize("kept", ["!", "a" * 5, base64.b64encode(b"text").decode()])
def test_a_kept_image_is_checked_like_any_other(client, avision, kept):
    """A client can send anything in the field."""
    page = client.post("/avision", **again(kept))
    assert page.status_code in (400, 415)
    assert kept_in(page.text) is None
    assert avision.submitted == []


def test_a_field_that_is_too_long_is_refused(client):
    """The server reads no more than a page can hold."""
    assert client.post("/avision", **again("A" * (FIELD_BYTES + 200_000))).status_code == 413


def test_the_api_refuses_the_field(client):
    """Programs send the image itself."""
    answer = client.post("/api/v1/image/analyze", **again("aaaa"))
    assert (answer.status_code, answer.json["message"]) == (400, f"Unknown field: {FIELD}.")


def test_a_reached_rate_limit_loses_nothing(models, machine):
    """A form that is refused before it is read can be sent again."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "1"}, None)
    client = create_app(settings, models, machine).test_client()
    client.post("/avibe", data={"prompt": "x"})
    refused = client.post("/avibe", data={"prompt": "Keep this"})
    assert refused.status_code == 429
    assert "Keep this</textarea>" in refused.text
    refused = client.post("/avision", **upload())
    assert refused.status_code == 429
    assert "What is it?</textarea>" in refused.text
    assert base64.b64decode(kept_in(refused.text)) == image_bytes()


def test_a_reached_rate_limit_is_shown_for_an_unreadable_body(models, machine):
    """A body that is no form is ignored."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "1"}, None)
    client = create_app(settings, models, machine).test_client()
    client.post("/avibe", data={"prompt": "x"})
    refused = client.post("/avision", data=b"no form", content_type="multipart/form-data; boundary=x")
    assert refused.status_code == 429
    assert "Rate limit exceeded" in refused.text


def test_the_text_of_images_stays_as_it_was_sent(app):
    """It has no lines to be mended, and is long; other fields have."""
    fields = {FIELD: "QUJD\r\nREVG", "prompt": "one\r\ntwo"}
    for kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        with app.test_request_context("/avision", method="POST", data=fields, content_type=kind):
            assert parsing._submitted({FIELD: FIELD_BYTES}).fields == fields | {"prompt": "one\ntwo"}


def test_the_text_of_images_is_not_searched_for_what_to_escape():
    """It has no letter that means anything in HTML."""
    images = [bytes(range(256)), image_bytes(), b""]
    text = packed(images)
    assert text.__html__() is text
    assert re.fullmatch("[A-Za-z0-9+/=,]*", text)
    assert [base64.b64decode(one) for one in text.split(",")] == images
    assert packed([bytes(MAX_BYTES), b"a"]) is None


def test_a_long_page_is_encoded_in_pieces(client, monkeypatch):
    """Whatever letters stand in it beside those of the image."""
    sizes, written = [], pages.utf8
    monkeypatch.setattr(pages, "utf8", lambda page: sizes.append(len(page)) or written(page))
    page = client.post("/avision", **upload(image_bytes() + bytes(MAX_BYTES // 2)))
    assert sizes == [len(page.text)]
    assert page.content_type == "text/html; charset=utf-8"
    assert base64.b64decode(kept_in(page.text)) == image_bytes() + bytes(MAX_BYTES // 2)
