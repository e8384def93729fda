"""Going on from an answer on the page, with scripts and without, by mouse and by keyboard."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import IMAGE, RED, TEXT, ask_image, ask_text, choose, finished
from tests.e2e.browser.test_accessibility import LOOKS, violations

pytestmark = pytest.mark.needs("chromium")

# Chromium does not tell what a form with a file holds.
NOTE_SENT = """() => {
  const { send } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.send = function (form) {
    window.sent = [form.get("image").name, form.get("prompt"), form.get("history")];
    return send.call(this, form);
  };
}"""


def test_a_chip_and_a_written_change_go_on_from_the_answer(service, open_page):
    """Each is an exchange below the last, which alone can be gone on from; the conversation so far goes along."""
    service.script(pieces=["First."])
    page = open_page(service.url, locale="ru-RU")
    finished(ask_text(page, "A listing"))
    service.script(pieces=["Second."])
    with page.expect_request("**/api/v1/text/generate") as sent:
        page.get_by_role("button", name="Короче", exact=True).click()
    assert sent.value.post_data_json["history"] == [{"prompt": "A listing", "text": "First."}]
    assert sent.value.post_data_json["prompt"] == "Сделай короче."
    finished(page.locator(TEXT).nth(1))
    page.locator(".change textarea").locator("visible=true").fill("Without the price")
    with page.expect_request("**/api/v1/text/generate") as sent:
        page.locator(".change button").locator("visible=true").click()
    assert [turn["text"] for turn in sent.value.post_data_json["history"]] == ["First.", "Second."]
    finished(page.locator(TEXT).nth(2))
    expect(page.locator(f"{TEXT} .question")).to_have_text(["A listing", "Сделай короче.", "Without the price"])
    expect(page.locator(".follow-up").locator("visible=true")).to_have_count(1)
    page.locator(".start-over").locator("visible=true").click()
    expect(page.locator("#text-prompt")).to_be_focused()
    with page.expect_request("**/api/v1/text/generate") as sent:
        newest = ask_text(page, "Another")
    assert "history" not in sent.value.post_data_json
    expect(newest.locator(".question")).to_have_text("Another")


def test_a_written_change_is_counted_and_cut_nowhere(service, open_page):
    """Too much of it stays and is not sent; the keys that send a form send it once it fits."""
    page = open_page(service.url)
    finished(ask_text(page))
    change, count = page.locator(f"{TEXT} .change textarea"), page.locator(f"{TEXT} [data-change-count]")
    change.fill("x" * 2001)
    expect(count).to_have_text("2,001 of 2,000: 1 too many")
    change.press("Control+Enter")
    assert (change.input_value(), page.locator(TEXT).count()) == ("x" * 2001, 1)
    change.fill("Without the price")
    expect(count).to_be_empty()
    change.press("Control+Enter")
    expect(page.locator(f"{TEXT} .question").last).to_have_text("Without the price")


def test_a_change_of_an_answer_about_an_image_sends_the_image_along(service, open_page):
    """Also after another one was chosen in the form."""
    page = open_page(service.url)
    choose(page)
    finished(ask_image(page))
    choose(page, {**RED, "name": "other.png"})
    page.evaluate(NOTE_SENT)
    page.locator(f"{IMAGE} .chips button").locator("visible=true").first.click()
    finished(page.locator(IMAGE).nth(1))
    sent = ["red.png", "Make it shorter.", '[{"prompt":"What is in the picture?","text":"An answer."}]']
    assert page.evaluate("window.sent") == sent
    expect(page.locator(f"{IMAGE} .thumbnail")).to_have_count(1)


def test_what_was_left_out_is_said(service, open_page):
    """A conversation that is too long for the model's context."""
    page = open_page(service.url, locale="ru-RU")
    finished(ask_text(page))
    told = re.compile("всего 3.")
    body = '{"success": true, "data": {"text": "x", "generated_tokens": 1, "input_tokens": 1, "dropped_turns": 3}, '
    body += '"metrics": {"generation_time": 1, "total_time": 1, "tokens_per_second": 1}, "request_id": "r"}'
    stream = {"content_type": "text/event-stream", "body": f'data: {{"text":"x"}}\n\ndata: {body}\n\n'}
    page.route("**/api/v1/text/generate", lambda route: route.fulfill(status=200, **stream))
    page.locator(".chips button").locator("visible=true").first.click()
    finished(page.locator(TEXT).nth(1))
    expect(page.locator(f"{TEXT} .dropped").nth(1)).to_have_text(told)


def test_the_keyboard_goes_on_and_stops(service, open_page):
    """The focus moves to what can stop the answer, and from there to what can be done with it."""
    page = open_page(service.url)
    finished(ask_text(page))
    service.script(pieces=["Half"], hold=True)
    page.locator(".chips button").locator("visible=true").first.focus()
    page.keyboard.press("Enter")
    exchange = page.locator(TEXT).nth(1)
    expect(exchange.locator(".answer")).to_have_text("Half")
    expect(exchange.locator("[data-do=halt]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(exchange.locator(".note")).to_contain_text("Stopped")
    expect(exchange.locator("[data-do=copy]")).to_be_focused()
    expect(exchange.locator(".follow-up")).to_be_visible()


def test_a_page_without_scripts_goes_on_too(service, open_page):
    """Chips and a written change, for a text and for an image, and starting over."""
    page = open_page(service.url, java_script_enabled=False, locale="ru-RU")
    page.fill("#text-prompt", "Объявление")
    page.click("form[data-kind=text] [data-do=send]")
    page.get_by_role("button", name="Короче", exact=True).click()
    expect(page.locator(f"{TEXT} .question")).to_have_text(["Объявление", "Сделай короче."])
    page.fill(".change textarea", "Без цены")
    page.click(".change button")
    expect(page.locator(f"{TEXT} .question")).to_have_text(["Объявление", "Сделай короче.", "Без цены"])
    expect(page.locator("#text-prompt")).to_have_value("Объявление")
    page.click(".start-over")
    expect(page.locator(TEXT)).to_have_count(0)
    page.set_input_files("#image-file", RED)
    page.fill("#image-prompt", "Что это?")
    page.click("form[data-kind=image] [data-do=send]")
    page.get_by_role("button", name="Подробнее", exact=True).click()
    expect(page.locator(f"{IMAGE} .question")).to_have_text(["Что это?", "Напиши подробнее."])
    expect(page.locator(f"{IMAGE} .answer")).to_have_count(2)


@pytest.mark.parametrize("look", LOOKS, ids=["light", "dark"])
def test_no_violation_in_a_conversation(service, open_page, look):
    """While it goes on, at its end, and without scripts; nothing is wider than a small window."""
    page = open_page(service.url, **look)
    finished(ask_text(page))
    assert violations(page) == []
    page.locator(".chips button").locator("visible=true").first.click()
    finished(page.locator(TEXT).nth(1))
    service.script(pieces=["Half"], hold=True)
    page.locator(".chips button").locator("visible=true").first.click()
    expect(page.locator(f"{TEXT} .answer").nth(2)).to_have_text("Half")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.locator(TEXT).nth(2).locator("[data-do=halt]").click()
    service.script()
    page.evaluate("document.querySelector('form[data-kind=text]').submit()")
    page.locator("#outcome .chips button").first.click()
    expect(page.locator(f"{TEXT} .question")).to_have_count(2)
    assert violations(page) == []


def test_a_large_image_is_chosen_again_before_it_is_gone_on_from(service, open_page):
    """Without scripts: the page says so, and the browser sends nothing without the picture, nor loses what is typed."""
    page = open_page(service.url, java_script_enabled=False)
    large = {**RED, "buffer": RED["buffer"] + bytes(3 * 1024 * 1024)}
    page.set_input_files("#image-file", large)
    page.fill("#image-prompt", "What is it?")
    page.click("form[data-kind=image] [data-do=send]")
    expect(page.locator(".follow-up a[href='#image-file']")).to_be_visible()
    page.fill(".change textarea", "And its colour?")
    page.click(".change button")
    expect(page.locator(".change textarea")).to_have_value("And its colour?")
    expect(page.locator(f"{IMAGE} .question")).to_have_text(["What is it?"])
    page.set_input_files("#image-file", large)
    page.click(".change button")
    expect(page.locator(f"{IMAGE} .question")).to_have_text(["What is it?", "And its colour?"])
