"""What the buttons of an answer put on the clipboard, in a real browser."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import ask_text, finished

pytestmark = pytest.mark.needs("chromium")

MARKDOWN = (
    "## Bicycle\n\nA **red** one,\nas [new](https://example.com/a).\n\n- frame\n- wheels\n  1. front\n  2. back\n\n"
    "3. three\n4. four\n\n| size | price |\n|---|---|\n| 26 | 5 000 |\n\n> said\n\n```\na = 1\n  b\n```\n"
)
READ = (
    "Bicycle\n\nA red one,\nas new (https://example.com/a).\n\n• frame\n• wheels\n  1. front\n  2. back\n\n"
    "3. three\n4. four\n\nsize\tprice\n26\t5 000\n\nsaid\n\na = 1\n  b"
)
KINDS = """async () => {
  const [item] = await navigator.clipboard.read();
  const texts = await Promise.all(item.types.map(async (type) => [type, await (await item.getType(type)).text()]));
  return Object.fromEntries(texts);
}"""

# Notes what a button says while it is disabled, which ends by itself.
NOTE = """(button) => {
  window.told = "";
  const note = () => button.disabled && (window.told = button.textContent);
  new MutationObserver(note).observe(button, { attributes: true });
}"""


@pytest.fixture
def answered(service, open_page):
    """Show a page with an answer to copy; returns the page, its exchange and its figures."""

    def shown(**options):
        service.script(pieces=[MARKDOWN[at : at + 7] for at in range(0, len(MARKDOWN), 7)])
        page = open_page(service.url, **options)
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        exchange = ask_text(page)
        return page, exchange, finished(exchange)

    return shown


def press(exchange, name):
    """Press a button that copies, and wait until it says that it has."""
    button = exchange.locator(f"[data-do={name}]")
    button.evaluate(NOTE)
    button.click()
    exchange.page.wait_for_function("() => window.told === 'Copied'")


def test_an_answer_is_copied_as_it_is_read(answered):
    """Plain text without marks, and HTML of the answer alone; Markdown and the code have buttons of their own."""
    page, exchange, _ = answered()
    press(exchange, "copy")
    copied = page.evaluate(KINDS)
    assert copied["text/plain"] == READ
    for part in ("<h3>Bicycle</h3>", "<strong>red</strong>", '<a href="https://example.com/a">', '<ol start="3">'):
        assert part in copied["text/html"]
    for ours in ("<button", "<div", " dir=", " class=", "tabindex"):
        assert ours not in copied["text/html"]
    press(exchange, "copy-markdown")
    assert page.evaluate("navigator.clipboard.readText()") == MARKDOWN
    press(exchange, "copy-code")
    assert page.evaluate("navigator.clipboard.readText()") == "a = 1\n  b"


def test_what_is_copied_has_all_that_was_written(service, open_page):
    """What might have begun a link or an emphasis and did not, up to the end."""
    text = "Цена: [указать цену], foto_1.jpg, f[i](x) и 5000*\n\nОплата [по договору](см. ниже\n\nВторая часть."
    service.script(pieces=list(text))
    page = open_page(service.url)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    exchange = ask_text(page)
    finished(exchange)
    press(exchange, "copy")
    assert page.evaluate(KINDS)["text/plain"] == text


def test_copying_works_without_the_clipboard_api(answered):
    """As on a page without HTTPS: both kinds, and the request id, which stands behind "Details"."""
    page, exchange, figures = answered()
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(); }")
    press(exchange, "copy")
    copied = page.evaluate(KINDS)
    assert copied["text/plain"] == READ
    assert "<strong>red</strong>" in copied["text/html"]
    exchange.locator("summary").click()
    press(exchange, "copy-id")
    assert page.evaluate("navigator.clipboard.readText()") == figures["request_id"]


def test_an_answer_of_the_server_is_copied_alike(answered):
    """The text of an answer that was rendered without scripts; nothing there repeats it."""
    page, _, _ = answered()
    page.evaluate("document.querySelector('form[data-kind=text]').submit()")
    outcome = page.locator("#outcome")
    finished(outcome)
    press(outcome, "copy")
    assert page.evaluate(KINDS)["text/plain"] == READ
    press(outcome, "copy-markdown")
    assert page.evaluate("navigator.clipboard.readText()") == MARKDOWN
    expect(outcome.locator("[data-do=again]")).to_be_hidden()
