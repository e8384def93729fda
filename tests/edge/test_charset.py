"""A declared charset: what is UTF-8 is read, whatever its name, and anything else is refused before the body is."""

import pytest

from tests.fakes import image_bytes

OWN, CHAT, MESSAGES, IMAGE = "/api/v1/text/generate", "/v1/chat/completions", "/v1/messages", "/api/v1/image/analyze"
BODIES = {
    OWN: {"prompt": "Привет"},
    CHAT: {"model": "avibe", "messages": [{"role": "user", "content": "Привет"}]},
    MESSAGES: {"model": "avibe", "max_tokens": 8, "messages": [{"role": "user", "content": "Привет"}]},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", '"utf-8"', "us-ascii", "ASCII", ""])
def test_utf_8_is_read_by_any_name(client, path, charset):
    """And ASCII, which is a part of it."""
    given = f"application/json; charset={charset}" if charset else "application/json"
    assert client.post(path, json=BODIES[path], content_type=given).status_code == 200


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("charset", ["windows-1251", "utf-16", "iso-8859-1", "latin1", "utf-7", "hex", "no such"])
def test_any_other_charset_is_refused(client, avibe, path, charset):
    """A text would be read as what it is not."""
    response = client.post(path, json=BODIES[path], content_type=f"application/json; charset={charset}")
    assert response.status_code == 415
    assert "UTF-8" in response.text
    assert not avibe.submitted


def test_forms_are_read_the_same(client, avibe):
    """The page's too, and each field of a form of parts."""
    given = "application/x-www-form-urlencoded; charset="
    assert client.post("/avibe", data="prompt=x", content_type=given + "utf-8").status_code == 200
    assert client.post("/avibe", data="prompt=x", content_type=given + "koi8-r").status_code == 415
    assert len(avibe.submitted) == 1


@pytest.mark.parametrize(("charset", "status"), [("utf-8", 200), ("windows-1251", 415)])
def test_a_part_may_declare_its_own(client, charset, status):
    """That of a file means nothing: it is known by its content."""
    body = b"--b\r\n" + b'Content-Disposition: form-data; name="prompt"\r\n'
    body += b"Content-Type: text/plain; charset=" + charset.encode() + b"\r\n\r\n?\r\n--b\r\n"
    body += b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n'
    body += b"Content-Type: image/png; charset=binary\r\n\r\n" + image_bytes() + b"\r\n--b--\r\n"
    response = client.post(IMAGE, data=body, content_type="multipart/form-data; boundary=b")
    assert response.status_code == status
