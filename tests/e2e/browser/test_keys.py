"""Keys in a real browser: the operator makes one, a visitor signs in with it, and it ends; with scripts and without."""

import http.client
import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import APP, KEY, Service, answering
from tests.e2e.browser.steps import TEXT, ask_text, finished
from tests.e2e.browser.test_accessibility import PHONE, violations
from tests.e2e.browser.test_layout import overflow
from tests.e2e.browser.test_status import ELSEWHERE
from tests.e2e.gunicorn_process import PATIENCE, GunicornProcess, until

pytestmark = pytest.mark.needs("chromium")

LOOK = {"color_scheme": "dark", "locale": "ru-RU", "viewport": {**PHONE, "width": 390}}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service that asks for keys; one for all tests of this file."""
    folder = tmp_path_factory.mktemp("keys")
    limits = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    with GunicornProcess(folder, app=APP, ADMIN_KEY=KEY, AUTH="keys", STATE_DIR=str(folder), **limits) as process:
        yield Service(answering(process))


def enter(page, key):
    """Type a key into the form that asks for one."""
    page.fill("#key", key)
    page.press("#key", "Enter")


def make_key(page, url, name, models=""):
    """Make a key on the operator's page; return its text."""
    page.goto(f"{url}/status/keys/new")
    page.fill("#name", name)
    page.fill("#models", models)
    page.fill("#requests_per_minute", "600")
    page.click("main form button")
    return page.input_value("#secret")


def wait_for(service, key, status):
    """Wait until the service has seen what became of a key."""

    def seen():
        connection = http.client.HTTPConnection("127.0.0.1", service.process.port, timeout=PATIENCE)
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        found = connection.getresponse().status
        connection.close()
        return found == status

    until(seen)


def sound(page):
    """True if the page has no violation of axe and fits its window."""
    return violations(page) == [] and overflow(page) <= 0


def test_a_key_from_its_making_to_its_end(guarded, open_page):
    """Every page on the way can be used by everybody; a disabled key signs its browser out."""
    page = open_page(f"{guarded.url}/status", extra_http_headers=ELSEWHERE, **LOOK)
    assert sound(page)
    enter(page, KEY)
    expect(page.locator(".tiles")).to_be_visible()
    text = make_key(page, guarded.url, "shop")
    assert re.fullmatch(r"avito_\w{12}_\w{43}", text)
    assert sound(page)
    page.click("a.button")
    assert sound(page)
    address = page.url
    for path in ("/status/keys", "/status/audit", "/status/keys?q=nothing"):
        page.goto(guarded.url + path)
        assert sound(page), path
    visitor = open_page(guarded.url, **LOOK)
    expect(visitor.locator("#text-prompt")).to_have_count(0)
    assert sound(visitor)
    wait_for(guarded, text, 200)
    enter(visitor, text)
    expect(visitor.locator("#text-prompt")).to_be_visible()
    finished(ask_text(visitor))
    assert sound(visitor)
    page.goto(address)
    page.click(".acts button >> nth=0")
    expect(page.locator(".chip")).to_have_attribute("data-state", "disabled")
    wait_for(guarded, text, 401)
    ended = ask_text(visitor, "Typed for nothing?")
    expect(ended.locator("[data-failure=sign-in] a")).to_be_visible()
    ended.locator("[data-failure=sign-in] a").click()
    expect(visitor.locator("#key")).to_be_visible()
    other = make_key(page, guarded.url, "other")
    wait_for(guarded, other, 200)
    enter(visitor, other)
    expect(visitor.locator("#text-prompt")).to_have_value("Typed for nothing?")


def test_all_of_it_works_without_scripts(guarded, open_page):
    """A key is made, signs in, keeps what was typed before, and asks."""
    operator = open_page(f"{guarded.url}/status", java_script_enabled=False, extra_http_headers=ELSEWHERE)
    enter(operator, KEY)
    text = make_key(operator, guarded.url, "plain")
    page = open_page(guarded.url, java_script_enabled=False)
    wait_for(guarded, text, 200)
    enter(page, text)
    page.fill("#text-prompt", "A first question")
    page.context.clear_cookies()
    page.click("form[data-kind=text] [data-do=send]")
    expect(page.locator(".question")).to_have_text("A first question")
    enter(page, text)
    expect(page.locator("#text-prompt")).to_have_value("A first question")
    page.click("form[data-kind=text] [data-do=send]")
    expect(page.locator(f"{TEXT} .answer")).to_have_text("An answer.")
    page.click("footer button")
    expect(page.locator("#key")).to_be_visible()


def with_an_old_token(route):
    """Send a request as from a page of an earlier session."""
    route.continue_(headers={**route.request.headers, "x-csrf-token": "of-before"})


@pytest.mark.parametrize("scripts", [True, False])
def test_a_refusal_that_says_what_to_do_says_nothing_else(guarded, open_page, scripts):
    """A key that is not for this model, and a page that is too old; neither is to be opened on the server itself."""
    operator = open_page(f"{guarded.url}/status", extra_http_headers=ELSEWHERE)
    enter(operator, KEY)
    text = make_key(operator, guarded.url, f"pictures {scripts}", "avision")
    page = open_page(guarded.url, java_script_enabled=scripts)
    wait_for(guarded, text, 200)
    enter(page, text)
    page.fill("#text-prompt", "A question")
    page.click("form[data-kind=text] [data-do=send]")
    failure = page.locator(f"{TEXT} .failure").first
    expect(failure).to_contain_text("may not use the model avibe")
    expect(failure.locator("[data-failure=next]")).to_have_text("")
    if scripts:
        page.route("**/api/v1/**", with_an_old_token)
        page.locator(f"{TEXT} [data-do=again]").click()
        expect(failure).to_contain_text("This page is too old")
        expect(failure.locator("[data-failure=next]")).to_have_text("")


# What the browser keeps of a page: the names of databases, and what was typed.
KEPT = """async () => [
  (await indexedDB.databases()).map((one) => one.name),
  Object.values(sessionStorage).filter((text) => text.includes("Mine")),
]"""


BUSY = """async () => {
  const [{ name }] = await indexedDB.databases();
  const request = indexedDB.open(name, 1);
  await new Promise((resolve) => { request.onsuccess = resolve; });
  const store = request.result.transaction("exchanges", "readwrite").objectStore("exchanges");
  const hold = () => (store.count().onsuccess = hold);
  hold();
}"""
ALL_KEPT = """async () => [
  (await indexedDB.databases()).map((one) => one.name),
  Object.keys(localStorage).filter((name) => name.startsWith("removed")),
]"""


def test_signing_out_leaves_nothing_though_the_browser_was_busy(guarded, open_page):
    """The page that asks for a key removes what could not be removed before; who signs in again finds nothing."""
    operator = open_page(f"{guarded.url}/status", extra_http_headers=ELSEWHERE)
    enter(operator, KEY)
    text = make_key(operator, guarded.url, "busy")
    page = open_page(guarded.url)
    wait_for(guarded, text, 200)
    enter(page, text)
    finished(ask_text(page, "Mine, asked"))
    page.reload()
    expect(page.locator("[data-past] > details")).to_have_count(1)
    page.evaluate(BUSY)
    page.click("#sign-out button")
    expect(page.locator("#key")).to_be_visible()
    until(lambda: not any(page.evaluate(ALL_KEPT)))
    enter(page, text)
    expect(page.locator("#text-prompt")).to_be_visible()
    expect(page.locator("[data-past] > details")).to_have_count(0)


def test_signing_out_leaves_nothing_of_a_visitor(guarded, open_page):
    """Neither in this tab nor in another, open or elsewhere; who signs in next finds an empty page."""
    operator = open_page(f"{guarded.url}/status", extra_http_headers=ELSEWHERE)
    enter(operator, KEY)
    texts = [make_key(operator, guarded.url, name) for name in ("first", "second")]
    page = open_page(guarded.url)
    wait_for(guarded, texts[0], 200)
    enter(page, texts[0])
    finished(ask_text(page, "Mine, asked"))
    page.fill("#text-prompt", "Mine, typed")
    away, other = page.context.new_page(), page.context.new_page()
    for tab in (away, other):
        tab.goto(guarded.url)
        tab.fill("#image-prompt", "Mine, in another tab")
        tab.locator("[data-past] > details > summary").click()
    away.goto(f"{guarded.url}/api/docs")
    page.click("#sign-out button")
    for tab in (page, other):
        expect(tab.locator("#key")).to_be_visible()
    away.goto(guarded.url)
    assert [tab.evaluate(KEPT) for tab in (page, away, other)] == [[[], []]] * 3
    wait_for(guarded, texts[1], 200)
    enter(page, texts[1])
    for tab in (page, away, other):
        tab.goto(guarded.url)
        for field in ("#text-prompt", "#image-prompt"):
            expect(tab.locator(field)).to_have_value("")
        expect(tab.locator("[data-past] > details")).to_have_count(0)
