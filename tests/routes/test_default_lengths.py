"""How long an answer is where nobody says, with a checkpoint whose context is shorter than that of the settings."""

import base64
from dataclasses import replace

import pytest

from app_production import create_app
from config import load_settings
from tests.fakes import image_bytes

GIVEN = {"MAX_TOKENS_AVIBE": "4000", "MAX_TOKENS_AVISION": "3000"}


@pytest.fixture
def client(models, machine, avibe, avision):
    """The service with long default answers, whose models turn out to have 2,048 tokens."""
    for model in (avibe, avision):
        model._info = replace(model.info, max_model_len=2048)
    return create_app(load_settings(GIVEN, None), models, machine).test_client()


def test_a_request_without_a_length_has_half_of_the_context(client, avibe):
    """What is set leaves no prompt any room, so that every such request was refused."""
    assert client.post("/api/v1/text/generate", json={"prompt": "Hello"}).status_code == 200
    assert avibe.only.sampling.max_tokens == 1024


def test_so_has_one_about_an_image(client, avision):
    """By the rule of its own model."""
    image = f"data:image/png;base64,{base64.b64encode(image_bytes()).decode()}"
    asked = client.post("/api/v1/image/analyze", json={"prompt": "What is it?", "image": image})
    assert asked.status_code == 200
    assert avision.only.sampling.max_tokens == 1024


def test_the_page_shows_and_sends_what_fits(client, avibe):
    """Its fields say the same, and so does its form without a length."""
    page = client.get("/").text
    assert page.count("default: 1,024<") == 2
    client.post("/avibe", data={"prompt": "Hello"})
    assert avibe.only.sampling.max_tokens == 1024


def test_a_length_that_a_request_names_is_its_own(client, avibe):
    """Only what nobody chose gives way."""
    client.post("/api/v1/text/generate", json={"prompt": "Hello", "max_tokens": 2000})
    assert avibe.only.sampling.max_tokens == 2000
