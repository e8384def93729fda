"""A change of language without JavaScript: the form whose button is pressed comes back with what was typed into it."""

import base64
import re

import pytest

from routes.kept_image import FIELD, MAX_BYTES
from routes.locale import COOKIE
from tests.fakes import image_bytes

TYPED = {"prompt": "With a bell", "template": "listing", "item": "bicycle", "length": "short", "max_tokens": "77"}


def change(client, form, fields=None, language="ru"):
    """Press a language's button of a form."""
    return client.post(f"/language?form={form}", data={"language": language, **(fields or {})})


@pytest.mark.parametrize("form", ["text", "image"])
def test_what_was_typed_comes_back(client, form):
    """In the new language, which is remembered; with the conversation's fields, which are passed over."""
    page = change(client, form, TYPED | {"conversation": "x", "change": "y", "image": "a.png"})
    assert (page.status_code, client.get_cookie(COOKIE).value) == (200, "ru")
    assert '<html lang="ru">' in page.text
    assert re.search(rf'id="{form}-prompt"[^>]*>With a bell</textarea>', page.text)
    assert re.search(rf'id="{form}-length"[^>]* value="77"', page.text)
    assert re.search('value="listing" checked', page.text) or form == "image"
    assert page.text.count("With a bell") == 1


def test_the_image_that_the_page_keeps_stays(client):
    """However large it may be."""
    data = image_bytes() + bytes(range(256)) * ((MAX_BYTES - len(image_bytes())) // 256)
    page = change(client, "image", {FIELD: base64.b64encode(data).decode()}).text
    assert base64.b64decode(re.search(rf'name="{FIELD}" value="([^"]*)"', page)[1]) == data


@pytest.mark.parametrize("form", ["", "other"])
def test_without_a_form_there_is_nothing_to_show(client, form):
    """The page is found at its address."""
    assert change(client, form).status_code == 303
    assert change(client, form, {"nothing": "x"}).status_code == 400


def test_an_unknown_language_is_refused_with_a_form_too(client):
    """Nothing is remembered."""
    assert change(client, "text", TYPED, "xx").status_code == 400
    assert client.get_cookie(COOKIE) is None
    assert change(client, "text", TYPED, "").status_code == 400


def test_a_reload_of_such_a_page_leads_to_the_forms(client):
    """Where its address is opened without the form."""
    answer = client.get("/language?form=text")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


class TestLimits:
    @pytest.fixture
    def environ(self, environ):
        return environ | {"RATE_LIMIT_PER_MINUTE": "1"}

    def test_a_visitor_changes_it_ten_times_as_often_as_it_asks(self, client):
        """Each reads what was typed, megabytes of it, and renders the page; it costs nothing of the answers' budget."""
        assert [change(client, "text", TYPED).status_code for _ in range(12)] == [200] * 10 + [429] * 2
        refused = change(client, "text", TYPED)
        assert "Retry-After" in refused.headers
        assert client.post("/api/v1/text/generate", json={"prompt": "x"}).status_code == 200
