"""Without JavaScript: all that was sent comes back in the page, the picture too, and nothing stays on the server."""

import base64
import html
import re

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import ModelError
from routes.kept_image import FIELD, FIELD_BYTES, MAX_BYTES
from tests.fakes import multipart, picture

LARGE = picture() + bytes(MAX_BYTES)


def upload(data=None, *fields):
    return multipart([("image", (data or picture(), "a.png")), ("prompt", "What is it?"), *fields])


def again(kept, *fields):
    """What a browser sends with the next question, no file chosen."""
    return multipart([("image", (b"", "")), (FIELD, kept), ("prompt", "And now?"), *fields])


def kept_in(page):
    """Return the picture that a page carries, None where it carries none."""
    found = re.search(rf'name="{FIELD}" value="([^"]*)"', page)
    return html.unescape(found[1]) if found else None


def required(page):
    """Return whether the browser insists on a file."""
    return bool(re.search(r'name="image" required', page))


def test_a_second_question_needs_no_second_upload(client, avision):
    """The page carries the picture byte for byte, and what comes back is what is asked about, again and again."""
    page = client.post("/avision", **upload()).text
    assert base64.b64decode(kept_in(page)) == picture()
    assert "The next question is about the same picture" in page
    assert not required(page)
    for _ in range(2):
        page = client.post("/avision", **again(kept_in(page))).text
        assert "An answer." in page
    assert [asked.prompt.images[0].data for asked in avision.submitted] == [picture()] * 3


def test_a_picture_that_is_chosen_takes_the_others_place(client, avision):
    """It is the one that is asked about, and the one that the page carries from then on."""
    kept = kept_in(client.post("/avision", **upload()).text)
    page = client.post("/avision", **upload(picture("blue"), (FIELD, kept))).text
    assert avision.submitted[-1].prompt.images[0].data == picture("blue")
    assert base64.b64decode(kept_in(page)) == picture("blue")


def test_a_large_picture_has_to_be_chosen_again(client):
    """A page stays small enough to come soon, and says what to do."""
    page = client.post("/avision", **upload(LARGE)).text
    assert kept_in(page) is None
    assert "choose it again" in page
    assert required(page)


def test_the_largest_that_is_kept_comes_back(client, avision):
    """The limit of a field is that of the page's own."""
    data = picture() + bytes(MAX_BYTES - len(picture()))
    kept = kept_in(client.post("/avision", **upload(data)).text)
    assert len(kept) <= FIELD_BYTES
    assert client.post("/avision", **again(kept)).status_code == 200
    assert avision.submitted[-1].prompt.images[0].data == data


def test_a_failure_loses_no_picture(client, avision):
    """Whatever failed, the question can be sent again as it stands; a page that was only opened has none."""
    avision.failure = ModelError("The model failed on this request.")
    page = client.post("/avision", **upload()).text
    assert base64.b64decode(kept_in(page)) == picture()
    page = client.post("/avision", **again(kept_in(page), ("max_tokens", "x"))).text
    assert base64.b64decode(kept_in(page)) == picture()
    assert kept_in(client.get("/").text) is None


@pytest.mark.parametrize("data", [b"text", picture()[:60], picture(size=(300, 1))])
def test_a_picture_that_cannot_be_read_is_not_kept(client, data):
    """It would only fail again."""
    page = client.post("/avision", **upload(data)).text
    assert kept_in(page) is None
    assert required(page)


@pytest.mark.parametrize("kept", ["!", "a" * 5, base64.b64encode(b"text").decode()])
def test_what_comes_back_is_checked_like_any_picture(client, avision, kept):
    """The field is a client's to fill."""
    page = client.post("/avision", **again(kept))
    assert page.status_code in (400, 415)
    assert kept_in(page.text) is None
    assert avision.submitted == []


def test_a_field_that_is_too_long_is_refused(client):
    """Nobody can make the server hold more than a page would have carried."""
    assert client.post("/avision", **again("A" * (FIELD_BYTES + 200_000))).status_code == 413


def test_the_api_knows_no_such_field(client):
    """Programs send the picture itself."""
    answer = client.post("/api/v1/image/analyze", **again("aaaa"))
    assert (answer.status_code, answer.json["message"]) == (400, f"Unknown field: {FIELD}.")


def test_a_spent_limit_loses_nothing_either(models, machine):
    """Refused before it was read, and yet all of it is there to be sent again."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "1"}, None)
    client = create_app(settings, models, machine).test_client()
    client.post("/avibe", data={"prompt": "x"})
    refused = client.post("/avibe", data={"prompt": "Keep this"})
    assert refused.status_code == 429
    assert "Keep this</textarea>" in refused.text
    refused = client.post("/avision", **upload())
    assert refused.status_code == 429
    assert "What is it?</textarea>" in refused.text
    assert base64.b64decode(kept_in(refused.text)) == picture()


def test_a_spent_limit_is_told_also_where_nothing_can_be_read(models, machine):
    """A body that is no form stays unread."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "1"}, None)
    client = create_app(settings, models, machine).test_client()
    client.post("/avibe", data={"prompt": "x"})
    refused = client.post("/avision", data=b"no form", content_type="multipart/form-data; boundary=x")
    assert refused.status_code == 429
    assert "Rate limit exceeded" in refused.text
