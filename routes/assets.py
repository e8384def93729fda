"""The static files of the page, at addresses that change with their contents, so that browsers cache them forever.

The fingerprint is part of the path and covers the whole folder, since modules import each other by relative names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flask import Blueprint, Response, send_from_directory, url_for

FOLDER = Path(__file__).parent.parent / "static"
CACHE_FOREVER = "public, max-age=31536000, immutable"
A_DAY = "public, max-age=86400"  # of what browsers ask for at an address that never changes

assets = Blueprint("assets", __name__)


def fingerprint(folder: Path) -> str:
    """Return a short hash of the contents of all files in the folder."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


FINGERPRINT = fingerprint(FOLDER)


@assets.get("/static/<path:filename>")
def static(filename: str) -> Response:
    """Return a static file; with the current fingerprint in its address it may be cached forever."""
    version, _, name = filename.partition("/")
    if version != FINGERPRINT:
        return send_from_directory(FOLDER, filename)
    response = send_from_directory(FOLDER, name)
    response.headers["Cache-Control"] = CACHE_FOREVER
    return response


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
