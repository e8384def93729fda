"""The page with the real engine: small random models of both kinds, loaded by the service."""

import re

import pytest
from playwright.sync_api import expect

from tests.checkpoints import write_text_checkpoint, write_vision_checkpoint
from tests.e2e.browser.conftest import UNLIMITED, Service, answering
from tests.e2e.browser.steps import IMAGE, TEXT, ask_image, ask_text, choose, finished
from tests.e2e.gunicorn_process import GunicornProcess, until

pytestmark = pytest.mark.needs("chromium")

LENGTH = 900  # tokens, far more than the engine makes before the stop


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The service as operators run it, but for long answers: they are held until they are stopped."""
    folder = tmp_path_factory.mktemp("engine")
    vibe, vision = folder / "vibe", folder / "vision"
    write_text_checkpoint(vibe)
    write_vision_checkpoint(vision)
    folders = {"VIBE_MODEL_DIR": str(vibe), "VIBE_TOKENIZER_DIR": str(vibe), "VISION_MODEL_DIR": str(vision)}
    settings = {"DEVICE": "cpu", "CPU_THREADS": "1", "STALL_SECONDS": "600", **folders, **UNLIMITED}
    with GunicornProcess(folder, app="tests.e2e.held_engine_app:app", **settings) as process:
        answering(process)
        until(lambda: process.get("/api/health/ready")[0] == 200, patience=120)
        yield Service(process)


def figure(page, name):
    """Return a metric of Avibe's engine."""
    text = page.request.get("/metrics").text()
    return float(re.search(rf'^avito_ai_{name}{{model="avibe"}} (\S+)$', text, re.MULTILINE)[1])


def seconds(shown):
    """Return what a time on the page says, in seconds."""
    number, unit = shown.split("\u00a0")
    return float(number) / {"s": 1, "ms": 1000}[unit]


def test_both_models_stream_to_the_page(engine, open_page):
    """Text and image requests are tokenized, generated and shown; the first token is timed."""
    page = open_page(engine.url)
    for form in ("text", "image"):
        page.click(f"form[data-kind={form}] summary")
        page.fill(f"#{form}-length", "12")
    choose(page)
    for ask in (ask_text, ask_image):
        figures = finished(ask(page))
        assert 1 <= int(figures["generated_tokens"]) <= 12
        assert 0 <= seconds(figures["first_token"]) <= seconds(figures["seconds"])
    expect(page.locator(f"{TEXT} .failure, {IMAGE} .failure").locator("visible=true")).to_have_count(0)


def test_stop_ends_the_work_in_the_engine(engine, open_page):
    """By the engine's metrics nothing runs any more, and far fewer tokens were generated than requested."""
    page = open_page(engine.url, base_url=engine.url)
    before = figure(page, "generation_tokens_total")
    page.click("form[data-kind=text] summary")
    page.fill("#text-length", str(LENGTH))
    page.fill("#text-temperature", "0")
    exchange = ask_text(page)
    expect(exchange.locator(".answer")).not_to_be_empty()
    assert figure(page, "num_requests_running") == 1
    page.click("form[data-kind=text] [data-do=stop]")
    until(lambda: figure(page, "num_requests_running") == 0)
    made = figure(page, "generation_tokens_total")
    assert 0 < made - before < LENGTH
    expect(exchange.locator(".note")).to_contain_text("Stopped")
