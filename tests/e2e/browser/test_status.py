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
    expect(page.locator("#table tbody")).to_contain_text("Time to first token: p95")
    expect(page.locator(".tiles [data-status=ready]")).to_contain_text("ready")


def test_every_plot_is_drawn_for_the_width_it_has(service, open_page):
    """The first one is not drawn while it is alone: its lettering would shrink as the others come beside it."""
    page = open_page(f"{service.url}/status", viewport={"width": 1440, "height": 900})
    expect(page.locator("[data-plot=memory] svg[role=img]").first).to_be_visible()  # what stands there before is empty
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


@pytest.mark.parametrize("viewport", [{"width": 390, "height": 844}, {"width": 1440, "height": 2400}])
def test_nothing_moves_when_the_plots_are_drawn(service, open_page, viewport):
    """The cumulative layout shift of a slow connection stays far below 0.05: the plots have their places before."""
    page = open_page("about:blank", viewport=viewport)
    page.add_init_script(
        """window.shift = 0;
        new PerformanceObserver((list) => { for (const one of list.getEntries()) window.shift += one.value; })
            .observe({ type: "layout-shift", buffered: true });"""
    )
    slow = {"offline": False, "latency": 300, "downloadThroughput": 400_000, "uploadThroughput": 400_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.goto(f"{service.url}/status")
    expect(page.locator("[data-plot=memory] svg .grid").first).to_be_attached()
    expect(page.locator("[data-plot=tokens] .legend b").first).to_be_visible()
    assert page.evaluate("window.shift") < 0.01


def test_axes_start_where_little_looks_little(service, open_page):
    """Counts have no halves, percentages end at a hundred, and each axis has its unit."""
    page = open_page(f"{service.url}/status")
    ticks = {}
    for plot in ("requests", "first_token", "memory"):
        texts = page.locator(f"[data-plot={plot}] svg .grid + text")
        expect(texts.first).to_be_attached()
        ticks[plot] = [text.replace("\u00a0", " ") for text in texts.all_text_contents()]
    assert ticks["memory"] == ["0 %", "50 %", "100 %"]
    assert all(tick.isdigit() for tick in ticks["requests"])
    assert ticks["requests"][0] == "0"
    assert int(ticks["requests"][-1]) >= 4  # more where other tests ask at the moment
    assert ticks["first_token"][0] == "0 s"
    assert float(ticks["first_token"][-1].removesuffix(" s")) >= 1  # more where the machine is busy
