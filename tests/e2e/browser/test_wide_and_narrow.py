"""Where things stand on a wide screen and on a phone, and that they stay there while an answer comes."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import UNLIMITED
from tests.e2e.browser.steps import IMAGE, RED, TEXT, ask_image, ask_text, choose, finished

pytestmark = pytest.mark.needs("chromium")

DESK = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LONG = [f"Paragraph {number} of an answer that is longer than a window.\n\n" for number in range(40)]
CODE = ["```\ncode\n", "```\n\n"]
SHIFTS = """() => {
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts.push(one.value);
  }).observe({ type: "layout-shift", buffered: true });
}"""
SMALL = """() => [...document.querySelectorAll("a, button, select, summary, textarea, input, .choice span")]
  .filter((one) => one.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }))
  .filter((one) => !one.closest(".unseen, .answer, .skip, h1") && !one.matches("[type=radio], [type=hidden]"))
  .filter((one) => one.getBoundingClientRect().height < 44)
  .map((one) => one.outerHTML.slice(0, 80))"""
GROW = """async (address) => {
  const { follow } = await import(address);
  const element = document.body.appendChild(document.createElement("div"));
  const follower = follow(element);
  const grow = async () => {
    element.style.height = `${element.clientHeight + 900}px`;
    follower.look();
    await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    return Math.round(element.getBoundingClientRect().bottom - innerHeight) <= 0;
  };
  const seen = [await grow(), await grow()];
  scrollBy(0, -300);
  await new Promise((resolve) => setTimeout(resolve, 100));
  seen.push(await grow());
  scrollTo(0, document.documentElement.scrollHeight);
  await new Promise((resolve) => setTimeout(resolve, 100));
  seen.push(await grow());
  follower.end();
  return seen;
}"""


def box(page, selector):
    """Return where an element is."""
    return page.locator(selector).first.bounding_box()


def test_an_answer_stands_beside_its_form_where_there_is_room(service, open_page):
    """On a wide screen, which the page uses; below it on a phone."""
    for options, beside in ((DESK, True), (PHONE, False)):
        page = open_page(service.url, **options)
        finished(ask_text(page))
        form, answer = box(page, "form[data-kind=text]"), box(page, f"{TEXT} .answer")
        assert (answer["x"] > form["x"] + form["width"]) is beside
        assert (answer["y"] < form["y"] + form["height"]) is beside
        if beside:
            assert page.locator("main").bounding_box()["width"] > 1300


@pytest.mark.parametrize("options", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_moves_while_an_answer_comes(service, open_page, options):
    """From the first look to the end of a long answer, cumulative layout shift stays under 0.05."""
    page = open_page(service.url, **options)
    page.evaluate(SHIFTS)
    service.script(pieces=LONG[:20] + 4 * CODE + LONG[20:])
    finished(ask_text(page))
    choose(page)
    finished(ask_image(page))
    assert sum(page.evaluate("window.shifts")) < 0.05


def test_the_end_of_an_answer_is_followed_until_the_reader_scrolls(service, open_page):
    """And again once the reader has come back to its end."""
    page = open_page(service.url, **PHONE)
    service.script(pieces=LONG, hold=True)
    exchange = ask_text(page)
    expect(exchange.locator(".answer")).to_contain_text("Paragraph 39")
    expect(exchange.locator(".answer p").last).to_be_in_viewport()
    page.click(f"{TEXT} [data-do=halt]")
    assert page.evaluate(GROW, page.locator("link[href*='follow.']").get_attribute("href")) == [True, True, False, True]


def test_a_wait_has_a_clock(service, open_page):
    """It is not read out, and goes when the answer begins."""
    service.script(waiting=2)
    page = open_page(service.url)
    clock = ask_text(page).locator("[data-clock]")
    expect(clock).to_have_text(re.compile(r"^· ([2-9]|[1-9]\d+)\ss so far$"))
    expect(clock).to_have_attribute("aria-hidden", "true")
    page.click(f"{TEXT} [data-do=halt]")
    expect(clock).to_have_text("")


def test_a_wide_table_scrolls_in_its_box(service, open_page):
    """Its words stay whole, and its page does not scroll."""
    heads = "|".join(f" Heading{number} " for number in range(12))
    service.script(pieces=[f"|{heads}|\n|{'---|' * 12}\n|{heads}|\n"])
    page = open_page(service.url, **PHONE)
    exchange = ask_text(page)
    finished(exchange)
    table, cell = exchange.locator(".answer .scroll"), exchange.locator("td").first
    assert table.evaluate("(one) => one.scrollWidth > one.clientWidth")
    assert cell.bounding_box()["height"] < 50  # one line
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_demos_notice_is_one_line_that_can_be_closed(own_service, open_page):
    """For this session of the browser; the whole sentence unfolds."""
    service = own_service(PAGE_DEMO="1", **UNLIMITED)
    page = open_page(service.url, **PHONE)
    notice = page.locator(".notice.line")
    assert notice.bounding_box()["height"] < 60
    notice.locator("summary").click()
    expect(page.locator("[data-notice=demo]")).to_be_visible()
    notice.get_by_role("button", name="Close").click()
    expect(notice).to_have_count(0)
    page.reload()
    expect(page.locator("#text-prompt")).to_be_visible()
    expect(notice).to_have_count(0)


@pytest.mark.parametrize("scripts", [True, False])
def test_an_answer_that_was_cut_can_be_continued(service, open_page, scripts):
    """With the conversation so far, with scripts and without them; one that ended has no such button."""
    service.script(pieces=["One", " two"], end="length")
    page = open_page(service.url, java_script_enabled=scripts)
    page.fill("#text-prompt", "Count")
    page.locator("form[data-kind=text] details").evaluate("(one) => { one.open = true; }")
    page.fill("#text-length", "2")
    page.click("form[data-kind=text] [data-do=send]")
    finished(page.locator(TEXT).last)
    service.script(pieces=["three"])
    page.locator(f"{TEXT} [data-do=continue]:visible").click()
    expect(page.locator(f"{TEXT} .answer").last).to_have_text("three")
    finished(page.locator(TEXT).last)
    expect(page.locator(f"{TEXT} .question").last).to_have_text("Continue from where you stopped.")
    expect(page.locator(f"{TEXT} [data-do=continue]:visible")).to_have_count(0)


def test_what_is_touched_is_large_enough(service, open_page):
    """44 pixels at least, in the forms and under an answer; links within texts are as their texts."""
    page = open_page(service.url, **PHONE)
    page.check("form[data-kind=text] [value=listing]")
    page.fill("#text-item", "desk")
    page.set_input_files("#image-file", RED)
    finished(ask_text(page))
    finished(ask_image(page))
    page.locator(f"{IMAGE} .about summary").click()
    assert page.evaluate(SMALL) == []


def test_a_mac_is_told_its_own_key(service, open_page):
    """Cmd sends there."""
    page = open_page("about:blank")
    page.add_init_script("Object.defineProperty(navigator, 'platform', { get: () => 'MacIntel' })")
    page.goto(service.url)
    expect(page.locator("form[data-kind=text] .keys")).to_have_text(re.compile("^⌘\\sEnter sends$"))
