"""OpenAI's own client over the application with scripted models, without a socket."""

import httpx2
import openai
import pytest


@pytest.fixture
def api(app):
    """The client as a user makes it, without retries, so that every failure is seen."""
    transport = httpx2.WSGITransport(app=app)
    with openai.OpenAI(
        base_url="http://localhost/v1",
        api_key="none",  # pragma: allowlist secret
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    ) as client:
        yield client


@pytest.fixture
def respond(api):
    """Create a response of Avibe."""

    def create(**fields):
        return api.responses.create(**({"model": "avibe", "input": "Hello"} | fields))

    return create
