"""axe-core finds no violation on any page in any state, light or dark; the keyboard is sufficient."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.e2e.browser.conftest import KEY
from tests.e2e.browser.steps import NOISY, SLOW, TEXT, ask_image, ask_text, choose, finished, upload_at
from tests.e2e.browser.test_status import ELSEWHERE

pytestmark = pytest.mark.needs("chromium")

PHONE, DESK = {"width": 320, "height": 700}, {"width": 1440, "height": 900}
MARKDOWN = (
    "# Title\n\n### Far below\n\nA [link](https://example.com) and `code`.\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n> said\n"
)
axe = Axe()


def violations(page):
    """Return axe's violations, each with its elements."""
    found = axe.run(page).response["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found]


LOADING = {"status": "loading", "progress": [4_000_000_000, 16_000_000_000]}
# Each scheme with a language and a size of its own: colours do not depend on either.
LOOKS = [
    {"color_scheme": "light", "locale": "en-US", "viewport": PHONE},
    {"color_scheme": "dark", "locale": "ru-RU", "viewport": DESK},
]


@pytest.fixture(params=LOOKS, ids=["light", "dark"])
def look(request, open_page):
    """Open an address in one of the color schemes."""
    return lambda url, **options: open_page(url, **request.param, **options)


def stop(page):
    """Stop the text form's generation."""
    page.click("form[data-kind=text] [data-do=stop]")


def test_no_violation_from_the_first_look_to_the_answers(service, look):
    """The empty page, a chosen image, a streaming, a stopped and a finished answer, a refused image, an upload."""
    page = look(service.url)
    assert violations(page) == []
    page.click("form[data-kind=text] summary")
    choose(page)
    service.script(pieces=[MARKDOWN, "```\ncode\n```\n"], hold=True)
    exchange = ask_text(page)
    expect(exchange.locator(".answer table")).to_be_visible()
    assert violations(page) == []
    stop(page)
    service.script(pieces=[MARKDOWN])
    finished(ask_image(page))
    page.set_input_files("#image-file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(page.locator("#image-problem")).to_be_visible()
    assert violations(page) == []
    choose(page, NOISY)
    upload_at(page.context.new_cdp_session(page), SLOW)
    expect(ask_image(page).locator("progress")).to_be_visible()
    assert violations(page) == []


def test_no_violation_while_something_is_in_the_way(service, look):
    """A failure, a queue, a retry of an overloaded service, an unreachable server."""
    page = look(service.url)
    service.script(fail=True)
    expect(ask_text(page).locator(".failure")).to_be_visible()
    service.script(waiting=2)
    expect(ask_text(page).locator(".wait")).to_contain_text("2")
    assert violations(page) == []
    stop(page)
    service.script(refuse=True)
    expect(ask_text(page).locator(".wait")).to_contain_text(re.compile("sent again in|снова сам"))
    assert violations(page) == []
    page.context.set_offline(True)
    expect(page.locator("#away")).to_be_visible()
    assert violations(page) == []
    page.context.set_offline(False)


def test_no_violation_where_a_limit_is_spent(own_service, look):
    """The countdown to the limit's reset, and the page without JavaScript with the form's values."""
    service = own_service(RATE_LIMIT_PER_MINUTE="1", RATE_LIMIT_PER_HOUR="0", PAGE_DEMO="1")
    page = look(service.url)
    finished(ask_text(page))
    expect(ask_text(page).locator("[data-failure=when]")).not_to_be_empty()
    assert violations(page) == []
    send_past_the_script(page, "text")
    expect(page.locator("#outcome .failure")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("script", [LOADING, *({"status": status} for status in ("draining", "stalled", "dead"))])
def test_no_violation_in_any_state_of_the_models(service, look, script):
    """Loading with progress, stopping, stalled and failed: the forms, a waiting question, the operator's page."""
    service.script(**script)
    page = look(service.url)
    expect(page.locator("#state .notice").first).to_be_visible()
    expect(ask_text(page).locator(".wait")).to_be_visible()
    assert violations(page) == []
    stop(page)
    page.goto(f"{service.url}/status")
    expect(page.locator("[data-plot=tokens]")).to_be_visible()
    assert violations(page) == []


def test_no_violation_on_any_other_page(service, look):
    """An answer without JavaScript with its kept image, an unknown address, the API's description, folded and not."""
    service.script(pieces=[MARKDOWN])
    page = look(service.url)
    choose(page)
    send_past_the_script(page, "image")
    expect(page.locator("#outcome .about")).to_be_visible()
    assert violations(page) == []
    for path in ("/nothing", "/api/docs"):
        page.goto(service.url + path)
        assert violations(page) == []
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert violations(page) == []


def test_no_violation_on_the_operators_page(service, look):
    """The sign-in form, a wrong key, the plots after signing in, the table, an unreachable server."""
    page = look(f"{service.url}/status", extra_http_headers=ELSEWHERE)
    assert violations(page) == []
    for key, shown in (("wrong", ".problem"), (KEY, "[data-plot=tokens] svg")):
        page.fill("#key", key)
        page.press("#key", "Enter")
        expect(page.locator(shown).first).to_be_visible()
        assert violations(page) == []
    page.click("#table summary")
    page.context.set_offline(True)
    expect(page.locator("#away")).to_be_visible()
    assert violations(page) == []
    page.context.set_offline(False)


def send_past_the_script(page, form):
    """Send a form as if no script ran; axe itself needs one."""
    page.fill(f"#{form}-prompt", "x")
    page.evaluate(f"document.querySelector('form[data-kind={form}]').submit()")


def test_the_keyboard_is_enough(service, open_page):
    """From the languages to the field, send, stop and the answer's buttons, each with a visible focus."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(3):  # the line of the notice, what closes it, and the first of the templates
        page.keyboard.press("Tab")
    expect(page.locator("form[data-kind=text] [value=free]")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#text-prompt")).to_be_focused()
    page.keyboard.type("Hello")
    for _ in range(7):  # three examples, length, tone, "more", and the button
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
    """The live region gets sentences without Markdown marks, and the end of the answer."""
    service.script(pieces=["**One", "** sen", "tence. ", "And a", "nother!"])
    page = open_page(service.url)
    finished(ask_text(page))
    spoken = page.locator("#spoken[aria-live=polite] p")
    expect(spoken).to_have_text(
        ["The answer is being written.", "One sentence.", "And another!", "The answer is complete."]
    )


def test_reduced_motion_is_respected(service, open_page):
    """Nothing is animated with prefers-reduced-motion."""
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url, reduced_motion="reduce")
    ask_text(page)
    expect(page.locator(f"{TEXT} .answer")).to_have_text("Half")
    moving = f"getComputedStyle(document.querySelector('{TEXT} .answer > p'), '::after').animationName"
    assert page.evaluate(moving) == "none"
    page.click("form[data-kind=text] [data-do=stop]")
