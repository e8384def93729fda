"""What had come of an answer when its connection was lost: it stays until more comes by the same stream, in any tab."""

import signal

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.conftest import UNLIMITED
from tests.e2e.browser.steps import ask_image, ask_text, choose, finished, go_on, signalled, stored_stream, unfold
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.needs("chromium")

CUT_OFF = "The connection to the server is lost, so the answer is cut off here."
FIGURES = {"finish_reason": "stop", "generated_tokens": 1, "input_tokens": 1}
METRICS = {"total_time": 1.0, "tokens_per_second": 1.0}
HALF = {"id": 11.5, "raw": "Half", "lost": True, "stream": "s"}
WHOLE = {
    "raw": "Whole",
    "answer": {"request_id": "r", "data": FIGURES, "metrics": METRICS},
    "cut": False,
    "stream": "s",
}
KEEP = """async (records) => {
  const { keep } = await import(document.querySelector("[href*='/history.js']").href);
  let found;
  for (const record of records) found = await keep(record);
  return [found.shown, found.variants.map(({ raw }) => raw)];
}"""
ADOPT = """async ([own, kept]) => {
  const { Variants } = await import(document.querySelector("[href*='/variants.js']").href);
  const variants = new Variants(null, own);
  variants.adopt(kept);
  return variants.list.map(({ raw }) => raw);
}"""


def half_answered(own_service, open_page):
    """A service that has sent half of an answer, its page, and the exchange there."""
    service = own_service(**UNLIMITED)
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    exchange = ask_text(page, "Keep this")
    expect(exchange.locator(".answer")).to_have_text("Half")
    return service, page, exchange


def killed_amid(own_service, open_page):
    """The same, once it was killed and the page has noticed."""
    service, page, exchange = half_answered(own_service, open_page)
    signalled(service, signal.SIGKILL)
    expect(exchange.locator(".note")).to_contain_text(CUT_OFF)
    return service, page, exchange


def comes_back(own_service, service):
    """Another service at the same address, which knows nothing of the answer."""
    own_service(PORT=str(service.process.port), **UNLIMITED).script(pieces=["Whole."])


def record(variants, shown, **other):
    """An exchange as the history keeps it."""
    first = 1_795_000_000_000.5
    question = {"prompt": "Q", "url": "/api/v1/text/generate", "maxTokens": "", "temperature": ""}
    common = {"id": first, "thread": first, "kind": "text", "question": question, "previews": [], "stream": ""}
    return {**common, "variants": variants, "shown": shown, **other}


def test_half_an_answer_stays_when_the_server_is_killed(own_service, open_page):
    """Marked as cut off, with the reason, also after a reload; asked for again, it is kept beside the whole one."""
    service, page, exchange = killed_amid(own_service, open_page)
    expect(exchange.locator(".answer")).to_have_text("Half")
    expect(page.locator("#away")).to_be_visible()
    comes_back(own_service, service)
    expect(page.locator("#away")).to_be_hidden()
    until(lambda: not stored_stream(page))
    expect(exchange.locator(".note")).to_contain_text(CUT_OFF)
    page.reload()
    exchange = unfold(page).first
    expect(exchange.locator(".note")).to_contain_text(CUT_OFF)
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator(".answer")).to_have_text("Whole.")
    expect(exchange.locator("[data-count-of]")).to_have_text("2 of 2")
    expect(exchange.locator(".note")).to_be_hidden()
    exchange.locator("[data-do=earlier]").click()
    expect(exchange.locator(".answer")).to_have_text("Half")
    expect(exchange.locator(".note")).to_contain_text(CUT_OFF)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_server_that_falls_silent_is_noticed_and_its_answer_goes_on_behind_that(own_service, open_page, kind):
    """No connection says by itself that a plug was pulled. What had come stays, and becomes the whole answer."""
    service = own_service(**UNLIMITED)
    service.script(pieces=["Half"], hold=True)
    page = open_page(service.url)
    if kind == "image":
        choose(page)
    exchange = ask_text(page) if kind == "text" else ask_image(page)
    expect(exchange.locator(".answer")).to_have_text("Half")
    signalled(service, signal.SIGSTOP)
    try:
        expect(exchange.locator(".note")).to_contain_text(CUT_OFF)
        expect(exchange.locator(".answer")).to_have_text("Half")
        expect(exchange.locator("[data-do=again]")).to_be_visible()
    finally:
        signalled(service, signal.SIGCONT)
    expect(exchange.locator(".note")).to_be_hidden()
    expect(exchange.locator(".answer")).to_have_text("Half")
    go_on(service, " and whole")
    finished(exchange)
    expect(exchange.locator(".answer")).to_have_text("Half and whole")
    expect(exchange.locator(".variants")).to_be_hidden()
    page.reload()
    expect(unfold(page).locator(".variants")).to_be_hidden()


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_page_that_was_set_aside_before_the_first_byte_asks_again(service, open_page, kind):
    """The browser ends its connections then, and shows it later as it was. What had failed stays so."""
    page = open_page(service.url)
    service.script(fail=True)
    failed = ask_text(page, "Failed")
    expect(failed.locator(".failure")).to_be_visible()
    service.script()
    if kind == "image":
        choose(page)
    taken = []
    page.route("**/api/v1/*/*", lambda route: taken.append(route))
    exchange = ask_text(page) if kind == "text" else ask_image(page)
    until(lambda: page.evaluate("1") and taken)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    with page.expect_event("requestfailed"):
        taken[0].abort()
    page.unroute("**/api/v1/*/*")
    expect(exchange.locator(".wait")).to_be_visible()
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    finished(exchange)
    expect(page.locator(".failure").locator("visible=true")).to_have_count(1)


def test_the_half_stays_where_the_question_is_asked_again(own_service, open_page):
    """Its server is gone, and with it the rest; "Try again" adds an answer, without a reload before it."""
    service, page, exchange = killed_amid(own_service, open_page)
    comes_back(own_service, service)
    expect(page.locator("#away")).to_be_hidden()
    until(lambda: not stored_stream(page))
    exchange.locator("[data-do=again]").click()
    finished(exchange)
    expect(exchange.locator("[data-count-of]")).to_have_text("2 of 2")


def test_a_question_that_is_asked_again_waits_for_the_server(own_service, open_page):
    """The half of before is no part of what it waits for."""
    service, page, exchange = killed_amid(own_service, open_page)
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator(".wait")).to_be_visible()
    comes_back(own_service, service)
    finished(exchange)
    expect(exchange.locator("[data-count-of]")).to_have_text("2 of 2")


def test_the_whole_answer_of_another_tab_is_shown_in_place_of_the_half(service, open_page):
    """A tab that shows the half keeps it after another one has kept the whole."""
    page = open_page(service.url)
    assert page.evaluate(KEEP, [record([WHOLE], 0), record([HALF], 0, closed="s")]) == [0, ["Whole"]]


def test_a_conversation_opens_where_nothing_is_shown(service, open_page):
    """As an earlier version kept it."""
    page = open_page(service.url)
    page.evaluate(KEEP, [record([WHOLE], -1)])
    page.reload()
    expect(unfold(page).first.locator(".answer")).to_have_text("Whole")


def test_parts_of_one_stream_give_way_in_any_order(service, open_page):
    """After two losses, in a tab that knows only the first one; parts of other streams, or of none, stay."""
    page = open_page(service.url)
    longer = {**HALF, "id": 12.5, "raw": "Half and"}
    assert page.evaluate(ADOPT, [[HALF], [WHOLE]]) == ["Whole"]
    assert page.evaluate(ADOPT, [[HALF], [longer]]) == ["Half and"]
    assert page.evaluate(ADOPT, [[longer], [HALF]]) == ["Half and"]
    assert page.evaluate(ADOPT, [[{**HALF, "stream": "other"}], [WHOLE]]) == ["Whole", "Half"]
    assert page.evaluate(ADOPT, [[{**HALF, "stream": ""}], [{**WHOLE, "stream": ""}]]) == ["Whole", "Half"]


def test_another_tab_finishes_what_this_one_lost(own_service, open_page):
    """It had loaded the exchange before the half was kept, which gives way all the same."""
    service, page, exchange = half_answered(own_service, open_page)
    other = page.context.new_page()
    other.goto(service.url)
    expect(other.locator("[data-past] .exchange .wait")).to_contain_text("another tab")
    signalled(service, signal.SIGSTOP)
    try:
        expect(exchange.locator(".note")).to_contain_text(CUT_OFF)
        page.close()
    finally:
        signalled(service, signal.SIGCONT)
    past = other.locator("[data-past] .exchange")
    expect(past.locator(".answer")).to_have_text("Half")
    go_on(service, " and whole")
    finished(past)
    expect(past.locator(".variants")).to_be_hidden()
