"""The files the page is made of, at addresses that change with their contents, so that browsers keep them for good.

The fingerprint stands in the path and covers the whole folder: modules find each other by relative names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flask import Blueprint, Response, send_from_directory, url_for

FOLDER = Path(__file__).parent.parent / "static"
FOR_GOOD = "public, max-age=31536000, immutable"

assets = Blueprint("assets", __name__)


def fingerprint(folder: Path) -> str:
    """Return a short name for what all files of the folder hold."""
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
    response.headers["Cache-Control"] = FOR_GOOD
    return response


@assets.app_template_global()
def asset(name: str) -> str:
    """Return the address that a file may be kept under."""
    return url_for("assets.static", filename=f"{FINGERPRINT}/{name}")
