"""Styles and scripts of the page: caching, and the vendored script."""

import gzip
import hashlib
import re

import pytest

from routes import assets
from routes.locale import LOCALES

PINNED_SHA256 = "20c0a39e6ec48b99e2f505f8488d2342fb3000d03523a7ced6cd94c14b15e8c5"  # pragma: allowlist secret


def test_static_files_are_served(client):
    """Cached forever with the fingerprint, revalidated without it."""
    for name in ("style.css", "app.js", "icon.svg", "vendor/streaming-markdown.js"):
        (address,) = set(re.findall(rf"/static/\w+/{name}", client.get("/").text))
        kept = client.get(address, buffered=True)
        assert (kept.status_code, kept.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        plain = client.get(f"/static/{name}", buffered=True)
        assert (plain.data, plain.headers["Cache-Control"]) == (kept.data, "no-cache")


@pytest.mark.parametrize("name", ["style.css", "app.js", "icon.png", "vendor/streaming-markdown.js"])
def test_each_release_sends_its_own_files_for_those_of_another(client, name):
    """Of two that run side by side, each sends its own files for those of the other, and nobody keeps them."""
    response = client.get(f"/static/0123456789ab/{name}", buffered=True, headers={"Accept-Encoding": "gzip"})
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    own = client.get(f"/static/{assets.FINGERPRINT}/{name}", buffered=True, headers={"Accept-Encoding": "gzip"})
    assert (response.data, response.headers["Content-Type"]) == (own.data, own.headers["Content-Type"])


@pytest.mark.parametrize(
    "version",
    ["0123456789a", "0123456789abc", "0123456789aB", "0123456789ag", "..", "0123456789ab/0123456789ab", "١" * 12],
)
def test_what_is_no_fingerprint_is_not_found(client, version):
    """Nor is a file that this release does not have, or one outside of the folder."""
    assert client.get(f"/static/{version}/style.css").status_code == 404
    for name in ("none.css", "../app_production.py", "", "vendor"):
        assert client.get(f"/static/0123456789ab/{name}").status_code == 404


@pytest.mark.parametrize("name", ["style.css", "app.js", "icon.svg"])
def test_a_text_is_sent_compressed_to_who_takes_it(client, name):
    """The same text, once with gzip and once without, and caches are told that there are two."""
    address = f"/static/{assets.FINGERPRINT}/{name}"
    plain = client.get(address, buffered=True, headers={"Accept-Encoding": "br, gzip;q=0"})
    small = client.get(address, buffered=True, headers={"Accept-Encoding": "br, gzip, deflate"})
    assert "Content-Encoding" not in plain.headers
    assert small.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(small.data) == plain.data == (assets.FOLDER / name).read_bytes()
    assert int(small.headers["Content-Length"]) == len(small.data) < len(plain.data)
    for kind in ("Content-Type", "Cache-Control", "Vary"):
        assert small.headers[kind] == plain.headers[kind]
    assert "Accept-Encoding" in small.headers["Vary"]
    assert small.headers["ETag"] != plain.headers["ETag"]
    again = client.get(address, headers={"Accept-Encoding": "gzip", "If-None-Match": small.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_what_is_no_text_or_no_file_is_sent_as_before(client):
    """Pictures are compressed already; what is outside the folder is not there."""
    takes = {"Accept-Encoding": "gzip"}
    assert "Content-Encoding" not in client.get("/static/icon.png", buffered=True, headers=takes).headers
    for path in ("none.css", "../app_production.py", "vendor", f"{assets.FINGERPRINT}/../../config.js"):
        assert client.get(f"/static/{path}", headers=takes).status_code == 404


def test_a_text_is_compressed_once(client):
    """A thousand readers cost one compression."""
    assets._compressed.cache_clear()
    for _ in range(3):
        client.get("/static/app.js", buffered=True, headers={"Accept-Encoding": "gzip"})
    assert assets._compressed.cache_info().misses == 1


def test_the_vendored_script_is_the_pinned_one():
    """Byte for byte the file of the package, after one line that names it, with its licence."""
    folder = assets.FOLDER / "vendor"
    first, _, rest = (folder / "streaming-markdown.js").read_bytes().partition(b"\n")
    assert b"streaming-markdown 0.2.15" in first
    assert hashlib.sha256(rest).hexdigest() == PINNED_SHA256
    assert "MIT License" in (folder / "streaming-markdown.LICENSE").read_text()


def test_no_script_has_texts_for_visitors():
    """They come from the locale files, with the page."""
    for script in assets.FOLDER.glob("*.js"):
        assert not re.search("[а-яё]", script.read_text(), re.IGNORECASE)
    for name in ("live", "codes", "next"):
        assert set(LOCALES["en"].for_scripts()[name]) == set(LOCALES["ru"].for_scripts()[name])


def test_a_fingerprint_changes_with_any_file(tmp_path):
    """With its contents, its name and its folder."""
    (tmp_path / "a.js").write_text("1")
    prints = [assets.fingerprint(tmp_path)]
    (tmp_path / "a.js").write_text("2")
    prints.append(assets.fingerprint(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "a.js").rename(tmp_path / "b" / "a.js")
    prints.append(assets.fingerprint(tmp_path))
    assert len(set(prints)) == 3


@pytest.mark.parametrize("path", ["/favicon.ico", f"/static/{assets.FINGERPRINT}/style.css", "/static/favicon.ico"])
@pytest.mark.parametrize("field", ["If-Modified-Since", "If-Unmodified-Since", "If-Range"])
@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 99999999999:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999",
        "Mon, 99999999999 Jan 2026 00:00:00 GMT",
        "1" * 5000,
        "yesterday",
    ],
)
def test_a_date_that_is_none_changes_nothing(client, path, field, date):
    """RFC 9110 has such a field passed over."""
    with client.get(path, headers={field: date}) as response:
        assert response.status_code == 200


def test_a_file_that_has_not_changed_since_is_not_sent_again(client):
    """By its date as well, for who keeps no tag."""
    with client.get("/favicon.ico") as first:
        changed = first.headers["Last-Modified"]
    with client.get("/favicon.ico", headers={"If-Modified-Since": changed}) as again:
        assert again.status_code == 304


@pytest.mark.parametrize("name", ["a" * 256 + ".css", "a" * 5000 + ".js", "a/" * 2000 + "b.svg", "a" * 300, "%00.css"])
def test_a_name_that_no_file_system_has_is_not_found(client, name):
    """As any other that there is not."""
    assert client.get(f"/static/{name}").status_code == 404
