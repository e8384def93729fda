"""The suite of langchain-tests: its coroutines, and its picture, which is read here and not fetched."""

from pathlib import Path

import httpx
import pytest

IMAGE = Path(__file__).parents[3] / "docs" / "red-square.png"


def pytest_configure(config):
    """Run coroutines without a mark of their own."""
    config.option.asyncio_mode = "auto"


def pytest_collection_modifyitems(items):
    """Run them in one loop, as LangChain keeps the connections of all models."""
    for item in items:
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(autouse=True)
def picture(monkeypatch):
    """The picture that the suite asks a site for."""
    fetched = httpx.get

    def get(url, **options):
        return httpx.Response(200, content=IMAGE.read_bytes()) if str(url).endswith(".png") else fetched(url, **options)

    monkeypatch.setattr(httpx, "get", get)
