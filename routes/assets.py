"""The static files of the page, at addresses that change with their contents, so that browsers cache them forever.

The fingerprint is part of the path and covers the whole folder, since modules import each other by relative names.
While two releases run side by side, one is asked for the files of the other: it sends its own, which nobody keeps.
Texts are compressed at their first request and kept so, a few ten KiB in all.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from flask import Blueprint, Response, request, send_file, send_from_directory, url_for
from werkzeug.security import safe_join

from routes.site_address import site_address

FOLDER = Path(__file__).parent.parent / "static"
CACHE_FOREVER = "public, max-age=31536000, immutable"
NEVER = "no-store"
A_DAY = "public, max-age=86400"  # of what browsers ask for at an address that never changes

TEXTS = {".css", ".js", ".svg"}
KEPT = 128  # more than there are texts in the folder

assets = Blueprint("assets", __name__)
assets.add_app_template_global(site_address)


def fingerprint(folder: Path) -> str:
    """Return a short hash of the contents of all files in the folder."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


FINGERPRINT = fingerprint(FOLDER)
ANY_FINGERPRINT = re.compile("[0-9a-f]{12}")


@assets.get("/static/<path:filename>")
def static(filename: str) -> Response:
    """Return a static file; with this release's fingerprint it may be cached forever, with another's not at all."""
    version, _, name = filename.partition("/")
    if not ANY_FINGERPRINT.fullmatch(version):
        return _sent(filename)
    response = _sent(name)
    response.headers["Cache-Control"] = CACHE_FOREVER if version == FINGERPRINT else NEVER
    return response


def _sent(name: str) -> Response:
    """Return a file of the folder, compressed if it is a text and the client takes that."""
    path = _text(name)
    if path is None:
        return send_from_directory(FOLDER, name)
    if request.accept_encodings.quality("gzip") > 0:
        body, tag = _compressed(path, path.stat().st_mtime_ns)
        response = send_file(BytesIO(body), download_name=path.name, etag=tag)
        response.headers["Content-Encoding"] = "gzip"
    else:
        response = send_from_directory(FOLDER, name)
    response.vary.add("Accept-Encoding")
    return response


def _text(name: str) -> Path | None:
    found = safe_join(str(FOLDER), name)
    # Path.is_file raises OSError for a name that is too long.
    return Path(found) if found is not None and Path(found).suffix in TEXTS and os.path.isfile(found) else None


@lru_cache(KEPT)
def _compressed(path: Path, mtime: int) -> tuple[bytes, str]:
    """Return the file in gzip's format, and an ETag; mtime: nanoseconds, so that an edited file is read again."""
    body = gzip.compress(path.read_bytes(), mtime=0)
    return body, f"{hashlib.sha256(body).hexdigest()[:16]}-gzip"


@assets.get("/favicon.ico")
def favicon() -> Response:
    """Return the icon that browsers ask for by themselves."""
    response = send_from_directory(FOLDER, "favicon.ico")
    response.headers["Cache-Control"] = A_DAY
    return response


@assets.app_template_global()
def asset(name: str) -> str:
    """Return the address of a file with the fingerprint."""
    return url_for("assets.static", filename=f"{FINGERPRINT}/{name}")
