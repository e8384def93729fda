"""One version, stated in telemetry/version.py, everywhere that a version is shown."""

from __future__ import annotations

import re
from pathlib import Path

from flask.testing import FlaskClient

from telemetry.version import RELEASE, VERSION

ROOT = Path(__file__).parents[2]


def test_a_version_is_three_numbers() -> None:
    """As in Semantic Versioning 2.0."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_release_is_the_folder_that_runs() -> None:
    """deploy.sh production gives each release a folder of its own."""
    assert RELEASE == ROOT.name


def test_the_description_and_the_operators_page_show_it(client: FlaskClient) -> None:
    """A program reads it in OpenAPI's `info`, the operator in the footer of /status; /metrics has a test of its own."""
    assert client.get("/api/openapi.json").json["info"]["version"] == VERSION
    assert f"Avito AI API {VERSION}" in client.get("/status").text


def test_the_label_of_the_image_is_the_same() -> None:
    """A plain `docker build` labels the image with it."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG VERSION=(.*)$", dockerfile, re.MULTILINE) == [VERSION]
    assert 'org.opencontainers.image.version="${VERSION}"' in dockerfile


def test_the_changelog_begins_with_it() -> None:
    """The newest entry of a version is about the one that runs; only what is not released yet stands above it."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", changelog, re.MULTILINE)
    assert headings[headings[0] == "Unreleased"] == VERSION
