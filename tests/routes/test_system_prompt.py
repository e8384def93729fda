"""The operator's system prompt: what is asked on the page begins with it, and what programs ask does not."""

import pytest

from app_production import create_app
from config import load_settings
from routes.system_prompt import PAGE_HEADER
from tests.fakes import image_bytes, multipart

TOLD = {"SYSTEM_PROMPT_AVIBE": "You sell.\\nBe brief.", "SYSTEM_PROMPT_AVISION": "You look."}
SYSTEM = {"role": "system", "content": "You sell.\nBe brief."}
HI = {"role": "user", "content": "Hi"}


@pytest.fixture
def told(models, machine):
    """Return a client of a service with system prompts."""
    return create_app(load_settings(TOLD, None), models, machine).test_client()


def test_the_page_begins_with_it(told, avibe, avision):
    """With scripts and without them, and for pictures with that of their model."""
    told.post("/avibe", data={"prompt": "Hi"})
    told.post("/api/v1/text/generate", json={"prompt": "Hi"}, headers={PAGE_HEADER: "1"})
    assert [request.prompt.messages for request in avibe.submitted] == [(SYSTEM, HI)] * 2
    told.post("/avision", **multipart([("prompt", "Hi"), ("image", (image_bytes(), "a.png"))]))
    system, question = avision.only.prompt.messages
    assert (system["content"], question["content"][0]) == ("You look.", {"type": "image"})


def test_programs_do_not(told, avibe):
    """They send their own, or none."""
    told.post("/api/v1/text/generate", json={"prompt": "Hi"})
    told.post("/v1/chat/completions", json={"model": "avibe", "messages": [HI]})
    assert [request.prompt.messages for request in avibe.submitted] == [(HI,)] * 2


def test_without_the_setting_there_is_none(client, avibe):
    """As before."""
    client.post("/avibe", data={"prompt": "Hi"})
    assert avibe.only.prompt.messages == (HI,)
