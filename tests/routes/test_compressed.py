"""Pages in gzip's format: the same to a client that takes it and to one that does not."""

import gzip

import pytest


@pytest.mark.parametrize("path", ["/", "/api/docs"])
def test_a_page_is_compressed_for_who_takes_it(client, path):
    """And a cache in between keeps both apart."""
    plain = client.get(path, headers={"X-Request-ID": "mine", "Accept-Encoding": "gzip;q=0, identity"})
    small = client.get(path, headers={"X-Request-ID": "mine", "Accept-Encoding": "br, gzip"})
    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.data) == plain.data
    assert int(small.headers["Content-Length"]) == len(small.data) < len(plain.data) / 3
    for response in (plain, small):
        assert response.mimetype == "text/html"
        assert "Accept-Encoding" in response.headers["Vary"]


def test_the_description_is_kept_by_language(client):
    """What was compressed of one is not sent for another."""
    for language in ("en", "ru", "en"):
        headers = {"Accept-Encoding": "gzip", "Accept-Language": language}
        page = gzip.decompress(client.get("/api/docs", headers=headers).data)
        assert f'<html lang="{language}">'.encode() in page


def test_an_answer_is_not_compressed(client):
    """Its length would tell something of what stands beside what another site made it repeat."""
    response = client.post("/avibe", data={"prompt": "x"}, headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in response.headers
