"""Two tabs of one browser: each asks and stops its own answers, and neither loses what the other keeps."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import TEXT, ask_text, finished, go_on, repeat, stored_stream, unfold
from tests.e2e.gunicorn_process import until

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.usefixtures("held")]

PAST = "[data-past] .exchange"
ELSEWHERE = "This answer is coming in another tab."
FORM = "form[data-kind=text]"


@pytest.fixture
def streaming(service, open_page):
    """A tab whose answer is held open, and another tab."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    expect(ask_text(page, "The first").locator(".answer")).to_have_text("Half")
    until(lambda: stored_stream(page))
    other = page.context.new_page()
    other.goto(service.url)
    expect(other.locator(f"{PAST} .wait")).to_contain_text(ELSEWHERE)
    return page, other


def test_another_tab_asks_while_one_streams(service, streaming):
    """Its form is free, and what it stops is its own."""
    page, other = streaming
    expect(other.locator(f"{FORM} [data-do=stop]")).to_be_hidden()
    expect(other.locator(f"{PAST} [data-do=halt]")).to_be_hidden()
    service.script(pieces=["Of the other."])
    finished(ask_text(other, "The second"))
    service.script(pieces=["Half of the other"], hold=True)
    exchange, before = ask_text(other, "The third"), len(service.aborted())
    expect(exchange.locator(".answer")).to_have_text("Half of the other")
    other.click(f"{FORM} [data-do=stop]")
    expect(exchange.locator(".note")).to_contain_text("Stopped")
    until(lambda: len(service.aborted()) == before + 1)
    go_on(service, " and whole")
    finished(page.locator(TEXT).first)
    expect(page.locator(f"{TEXT} .answer")).to_have_text("Half and whole")
    expect(other.locator(f"{PAST} .answer")).to_have_text("Half and whole")
    assert len(service.aborted()) == before + 1


def test_a_reload_keeps_the_answer_in_its_tab(service, streaming):
    """The tab that waits for it does not take it meanwhile."""
    page, other = streaming
    page.reload()
    expect(page.locator(f"{PAST} .answer")).to_have_text("Half")
    expect(page.locator(f"{FORM} [data-do=stop]")).to_be_visible()
    expect(other.locator(f"{PAST} .wait")).to_contain_text(ELSEWHERE)
    before = len(service.aborted())
    page.click(f"{FORM} [data-do=stop]")
    until(lambda: len(service.aborted()) == before + 1)
    expect(other.locator(f"{PAST} .answer")).to_have_text("Half")
    expect(other.locator(PAST)).not_to_have_attribute("aria-busy", "true")


def test_a_closed_tab_leaves_its_answer_to_the_other(service, streaming):
    """Which reads it from its beginning, beside its own form, and can stop it then."""
    page, other = streaming
    page.close()
    expect(other.locator(f"{PAST} .answer")).to_have_text("Half")
    expect(other.locator(f"{PAST} [data-do=halt]")).to_be_visible()
    expect(other.locator(f"{FORM} [data-do=send]")).to_be_visible()
    go_on(service, " and whole")
    finished(other.locator(PAST))
    expect(other.locator(f"{PAST} .answer")).to_have_text("Half and whole")


def test_two_tabs_that_repeat_a_question_keep_both_answers(service, open_page):
    """And the rating of one; what is kept shows in the tab that keeps next."""
    service.script(pieces=["One."])
    page = open_page(service.url)
    exchange = ask_text(page, "A listing")
    finished(exchange)
    other = page.context.new_page()
    other.goto(service.url)
    again = unfold(other).first
    repeat(service, again, "Two.")
    again.locator("[data-do=up]").click()
    expect(again.locator("[data-do=up]")).to_have_attribute("aria-pressed", "true")
    repeat(service, exchange, "Three.")
    expect(exchange.locator("[data-count-of]")).to_have_text("3 of 3")
    page.reload()
    kept = unfold(page).first
    expect(kept.locator(".answer")).to_have_text("Three.")
    kept.locator("[data-do=earlier]").click()
    expect(kept.locator(".answer")).to_have_text("Two.")
    expect(kept.locator("[data-do=up]")).to_have_attribute("aria-pressed", "true")
    kept.locator("[data-do=earlier]").click()
    expect(kept.locator(".answer")).to_have_text("One.")
