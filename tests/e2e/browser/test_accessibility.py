"""axe-core finds nothing, on any page, in any state, light and dark; and the keyboard alone is enough."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.e2e.browser.steps import TEXT, ask_picture, ask_text, choose, finished
from tests.e2e.browser.test_status import ELSEWHERE

PHONE, DESK = {"width": 320, "height": 700}, {"width": 1440, "height": 900}
MARKDOWN = (
    "# Title\n\n### Far below\n\nA [link](https://example.com) and `code`.\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n"
)
axe = Axe()


def violations(page):
    """Return what axe finds, each with its places."""
    found = axe.run(page).response["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]


@pytest.mark.parametrize(("scheme", "locale", "size"), [("light", "en-US", PHONE), ("dark", "ru-RU", DESK)])
def test_no_violation_in_any_state_of_the_page(service, open_page, scheme, locale, size):
    """From the first look to an answer, a failure, a queue, a load and a server that is away."""
    page = open_page(service.url, color_scheme=scheme, locale=locale, viewport=size)
    assert violations(page) == []
    page.click("form[data-kind=text] summary")
    choose(page)
    service.script(pieces=[MARKDOWN, "```\ncode\n```\n"], hold=True)
    exchange = ask_text(page)
    expect(exchange.locator(".answer table")).to_be_visible()
    assert violations(page) == []
    page.click("form[data-kind=text] [data-do=stop]")
    service.script(pieces=[MARKDOWN])
    finished(ask_picture(page))
    service.script(fail=True)
    expect(ask_text(page).locator(".failure")).to_be_visible()
    assert violations(page) == []
    service.script(waiting=2)
    expect(ask_text(page).locator(".wait")).to_contain_text("2")
    page.context.set_offline(True)
    expect(page.locator("#away")).to_be_visible()
    assert violations(page) == []
    page.context.set_offline(False)
    page.click("form[data-kind=text] [data-do=stop]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_violation_on_any_other_page(service, open_page, scheme):
    """Loading and trouble, an answer without JavaScript, an unknown address, the key's form, the operator's plots."""
    page = open_page(f"{service.url}/nothing", color_scheme=scheme)
    assert violations(page) == []
    for told in ({"status": "loading", "progress": [1, 2]}, {"status": "dead"}):
        service.script(**told)
        page.goto(service.url)
        assert violations(page) == []
    service.script(pieces=[MARKDOWN])
    page.goto(service.url)
    page.fill("#text-prompt", "x")
    page.evaluate("document.querySelector('form[data-kind=text]').submit()")  # past the script, as if there were none
    expect(page.locator("#outcome .figures")).to_be_visible()
    assert violations(page) == []
    page.goto(f"{service.url}/status")
    expect(page.locator("[data-plot=tokens] svg").first).to_be_visible(timeout=15_000)
    page.click("#table summary")
    assert violations(page) == []
    locked = open_page(f"{service.url}/status", color_scheme=scheme, extra_http_headers=ELSEWHERE)
    locked.fill("#key", "wrong")
    assert violations(locked) == []


def test_the_keyboard_is_enough(service, open_page):
    """Past the languages to the field, send, stop and the buttons of the answer, each visibly in focus."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("#text-prompt")).to_be_focused()
    page.keyboard.type("Hello")
    for _ in range(5):  # three examples, "more", and the button
        page.keyboard.press("Tab")
    expect(page.locator("form[data-kind=text] [data-do=send]")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("form[data-kind=text] [data-do=stop]")).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    expect(page.locator(f"{TEXT} .answer")).to_have_text("Half")
    page.keyboard.press("Enter")
    expect(page.locator("form[data-kind=text] [data-do=send]")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(f"{TEXT} [data-do=copy]")).to_be_focused()


def test_whole_sentences_are_spoken_as_they_come(service, open_page):
    """The live region gets sentences without marks, and the end of the answer."""
    service.script(pieces=["**One", "** sen", "tence. ", "And a", "nother!"])
    page = open_page(service.url)
    finished(ask_text(page))
    spoken = page.locator("#spoken[aria-live=polite] p")
    expect(spoken).to_have_text(
        ["The answer is being written.", "One sentence.", "And another!", "The answer is complete."]
    )


def test_reduced_motion_is_respected(service, open_page):
    """Nothing moves for those who asked for calm."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url, reduced_motion="reduce")
    ask_text(page)
    expect(page.locator(f"{TEXT} .answer")).to_have_text("Half")
    moving = f"getComputedStyle(document.querySelector('{TEXT} .answer'), '::after').animationName"
    assert page.evaluate(moving) == "none"
    page.click("form[data-kind=text] [data-do=stop]")
