"""The operator's page in a real browser: who may see it, and that it shows current values."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import KEY
from tests.e2e.browser.steps import ask_text, finished

pytestmark = pytest.mark.needs("chromium")

ELSEWHERE = {"X-Forwarded-For": "203.0.113.7"}  # what a proxy adds, so that no client behind it counts as local


def test_the_machine_itself_sees_plots_of_what_happened(service, open_page):
    """A recent answer is in the tiles, the plots and the table."""
    page = open_page(service.url)
    finished(ask_text(page))
    page.goto(f"{service.url}/status")
    expect(page.locator("[data-plot=first_token] svg path.line").first).to_be_attached()
    expect(page.locator("[data-plot=tokens] .legend li")).to_have_text([re.compile("avibe"), re.compile("avision")])
    page.click("#table summary")
    expect(page.locator("#table tbody")).to_contain_text("Time to first token, seconds: p95")
    expect(page.locator(".tiles [data-status=ready]")).to_contain_text("ready")


def test_every_plot_is_drawn_for_the_width_it_has(service, open_page):
    """The first one is not drawn while it is alone: its lettering would shrink as the others come beside it."""
    page = open_page(f"{service.url}/status", viewport={"width": 1440, "height": 900})
    expect(page.locator("[data-plot=memory] svg").first).to_be_visible()
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("[data-plot] > svg")].map((svg) =>
            [svg.viewBox.baseVal.width, Math.round(svg.getBoundingClientRect().width)])"""
    )
    assert len(sizes) > 1
    assert all(abs(drawn - shown) <= 1 for drawn, shown in sizes), sizes


def test_others_sign_in_once_with_the_key(own_service, open_page):
    """A wrong key is refused; the right one gives an HttpOnly cookie and never appears in an address."""
    service = own_service(ADMIN_KEY=KEY)  # whose limit of attempts no other test has used
    page = open_page(f"{service.url}/status", extra_http_headers=ELSEWHERE, locale="ru-RU")
    page.fill("#key", "not-the-key-of-anybody")
    page.press("#key", "Enter")
    expect(page.locator(".problem")).to_contain_text("Это не тот ключ.")
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    expect(page.locator("[data-plot=tokens] svg").first).to_be_visible()
    assert page.url == f"{service.url}/status"
    (cookie,) = [one for one in page.context.cookies() if one["name"] == "avito_ai_operator"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/status")
    assert page.evaluate("document.cookie") == ""
    page.click("footer button")
    expect(page.locator("#key")).to_be_visible()


def test_a_page_that_is_open_says_when_the_server_is_away(service, open_page):
    """The page continues when the server is reachable again."""
    page = open_page(f"{service.url}/status")
    expect(page.locator("[data-plot=tokens] svg").first).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator("#away")).to_be_visible()
    page.context.set_offline(False)
    expect(page.locator("#away")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_without_scripts(service, open_page, scheme):
    """Tiles and table are rendered on the server."""
    page = open_page(f"{service.url}/status", java_script_enabled=False, color_scheme=scheme)
    page.click("#table summary")
    expect(page.locator("#table tbody tr").first).to_contain_text("Tokens per second: avibe")
    expect(page.locator(".tiles div")).to_have_count(8)
