"""What every suite of a client's library is given: the server's address and an image; nothing but pytest is needed."""

import base64
import os
from pathlib import Path

import pytest

IMAGE = Path(__file__).parents[2] / "docs" / "red-square.png"


@pytest.fixture(scope="session")
def address():
    """The server's address without a path; `python -m tests.clients` sets it."""
    return os.environ["CLIENTS_ADDRESS"]


@pytest.fixture(scope="session")
def base_url(address):
    """The address under which OpenAI's protocol stands."""
    return f"{address}/v1"


@pytest.fixture(scope="session")
def image_base64():
    """A red square, a PNG in base64."""
    return base64.b64encode(IMAGE.read_bytes()).decode()


@pytest.fixture(scope="session")
def image_url(image_base64):
    """The same as a data URL."""
    return f"data:image/png;base64,{image_base64}"
