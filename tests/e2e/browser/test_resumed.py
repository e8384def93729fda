"""Answers that go on while the page is reloaded, by a real Gunicorn that sees the connection close."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import IMAGE, TEXT, ask_image, ask_text, choose, finished, go_on, stored_stream
from tests.e2e.browser.test_accessibility import LOOKS, violations
from tests.e2e.gunicorn_process import until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.usefixtures("held")]

PAST = "[data-past] .exchange"


def kept_streams(page):
    """Return how many streams the service keeps."""
    return float(re.search(r"^avito_ai_resumable_streams (\S+)$", page.request.get("/metrics").text(), re.MULTILINE)[1])


def test_a_reload_amid_an_answer_continues_it(service, open_page):
    """From its beginning to its end, in the history, in view; the model is not asked again."""
    service.script(pieces=["Half ", "of it"], hold=True)
    page = open_page(service.url, **LOOKS[1])
    expect(ask_text(page, "A listing").locator(".answer")).to_have_text("Half of it")
    asked = []
    page.on("request", lambda request: asked.append(request) if request.method == "POST" else None)
    page.reload()
    exchange = page.locator(PAST)
    expect(exchange.locator(".answer")).to_have_text("Half of it")
    expect(exchange).to_be_in_viewport()
    assert violations(page) == []
    go_on(service, " and the rest")
    figures = finished(exchange)
    expect(exchange.locator(".answer")).to_have_text("Half of it and the rest")
    expect(exchange.locator(".follow-up")).to_be_visible()
    page.reload()
    expect(page.locator("[data-past] > details")).to_have_count(1)
    expect(page.locator("[data-past] > details")).not_to_have_attribute("open", "")
    assert asked == []
    assert figures["request_id"] not in service.aborted()  # where streams of other tests may end meanwhile


def test_another_language_and_a_picture_continue_too(service, open_page):
    """The page's language is that of the reader then."""
    service.script(pieces=["A red"], hold=True)
    page = open_page(service.url)
    choose(page)
    expect(ask_image(page).locator(".answer")).to_have_text("A red")
    page.click("button[lang=ru]")
    exchange = page.locator(PAST)
    expect(exchange.locator(".answer")).to_have_text("A red")
    go_on(service, " square.")
    expect(exchange.locator("[data-do=copy]")).to_have_text("Скопировать")
    expect(exchange.locator(".answer")).to_have_text("A red square.")
    expect(page.locator(IMAGE)).to_have_count(0)


def test_a_continued_answer_can_be_stopped(service, open_page):
    """The model stops at once, and nothing is left of the stream."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url, base_url=service.url)
    before, streams = len(service.aborted()), kept_streams(page)
    ask_text(page)
    expect(page.locator(f"{TEXT} .answer")).to_have_text("Half")
    page.reload()
    expect(page.locator(f"{PAST} .answer")).to_have_text("Half")
    page.locator(f"{PAST} [data-do=halt]").press("Enter")
    until(lambda: len(service.aborted()) == before + 1)
    expect(page.locator(f"{PAST} .note")).to_contain_text("Stopped")
    until(lambda: kept_streams(page) <= streams)


def test_a_second_tab_takes_nothing_away(service, open_page):
    """It waits for the answer; the first tab goes on."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    exchange = ask_text(page)
    expect(exchange.locator(".answer")).to_have_text("Half")
    until(lambda: stored_stream(page))
    other = page.context.new_page()
    other.goto(service.url)
    expect(other.locator(f"{PAST} .wait")).to_contain_text("This answer is coming in another tab.")
    go_on(service, " and whole")
    finished(exchange)
    expect(exchange.locator(".answer")).to_have_text("Half and whole")
    expect(other.locator(f"{PAST} .answer")).to_have_text("Half and whole")


def test_an_answer_that_cannot_be_continued_says_so(service, open_page):
    """The question stays, and can be asked again."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    ask_text(page)
    until(lambda: stored_stream(page))
    stream = stored_stream(page)
    page.goto(f"{service.url}/api/docs")
    assert page.request.delete(f"{service.url}/api/v1/streams/{stream}").ok
    service.script(pieces=["Anew"])
    page.goto(service.url)
    exchange = page.locator(PAST)
    expect(exchange.locator(".note")).to_contain_text("The page was left before there was an answer.")
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator(".answer")).to_have_text("Anew")
