"""What the browser keeps of earlier questions, and the answers that a question has had."""

import re
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import IMAGE, PAST, TEXT, ask_image, ask_text, choose, finished, repeat, unfold
from tests.e2e.browser.test_accessibility import LOOKS, violations
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.needs("chromium")

PAINTED = "() => 'shifts' in window && performance.getEntriesByName('first-contentful-paint').length"
NEXT_PAINT = "new Promise((then) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(then))))"
SHIFTS = """window.shifts = 0; new PerformanceObserver((list) => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifts += one.value;
}).observe({ type: "layout-shift", buffered: true })"""

STORED = """() => new Promise((resolve) => {
  const request = indexedDB.open("history ", 1);
  request.onsuccess = () => {
    const names = ["exchanges", "pictures"];
    const running = request.result.transaction(names);
    const counts = names.map((name) => running.objectStore(name).count());
    running.oncomplete = () => resolve(counts.map((count) => count.result));
  };
})"""
KEPT = """(expected) => new Promise((resolve) => {
  const request = indexedDB.open("history ", 1);
  request.onupgradeneeded = () => request.transaction.abort(); // the page makes it, with what belongs into it
  request.onerror = () => resolve(false);
  request.onsuccess = () => {
    const names = ["exchanges", "pictures"];
    const running = request.result.transaction(names);
    const [records, pictures] = names.map((name) => running.objectStore(name).getAll());
    running.oncomplete = () => {
      const seen = records.result.filter((record) => record.previews.length).length;
      request.result.close();
      resolve(`${[records.result.length, pictures.result.length, seen]}` === `${expected}`);
    };
  };
})"""


def kept(page, exchanges, pictures=0):
    """Wait until the browser has written so many exchanges, and so many of them with their picture and its preview."""
    until(lambda: page.evaluate(KEPT, [exchanges, pictures, pictures]))


@contextmanager
def painted_before_it_is_read(page):
    """Let the page's modules come once it is painted, as on a slow telephone."""

    def late(route):
        page.wait_for_function(PAINTED)
        route.continue_()

    page.route("**/static/**/*.js*", late)
    yield
    page.unroute("**/static/**/*.js*")


def test_answers_to_one_question_are_kept_beside_each_other(service, open_page):
    """Again adds one; arrows lead through them; a change goes on from the one that is shown."""
    service.script(pieces=["One."])
    page = open_page(service.url)
    exchange = ask_text(page, "A listing")
    finished(exchange)
    expect(exchange.locator(".variants")).to_be_hidden()
    repeat(service, exchange, "Two.")
    repeat(service, exchange, "Three.")
    expect(exchange.locator("[data-count-of]")).to_have_text("3 of 3")
    exchange.locator("[data-do=earlier]").press("Enter")
    expect(exchange.locator(".answer")).to_have_text("Two.")
    expect(exchange.locator("[data-do=earlier]")).to_be_focused()
    service.script(fail=True)
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator(".failure")).to_be_visible()
    exchange.locator("[data-do=earlier]").click()
    exchange.locator("[data-do=earlier]").click()
    expect(exchange.locator("[data-count-of]")).to_have_text("2 of 3")
    service.script()
    with page.expect_request("**/api/v1/text/generate") as sent:
        exchange.locator(".chips button").first.click()
    assert sent.value.post_data_json["history"] == [{"prompt": "A listing", "text": "Two."}]


@pytest.mark.parametrize("look", LOOKS, ids=["light", "dark"])
def test_a_reload_keeps_conversations_with_all_their_answers(service, open_page, look):
    """Folded, the newest first; they go on, and nothing of the page moves while they appear."""
    page = open_page(service.url, **look)
    page.add_init_script(SHIFTS)
    exchange = ask_text(page, "A listing")
    finished(exchange)
    repeat(service, exchange, "Two.")
    exchange.locator(".chips button").first.click()
    finished(page.locator(TEXT).nth(1))
    choose(page)
    finished(ask_image(page))
    expect(page.locator("#history")).to_be_visible()
    expect(page.locator(PAST)).to_have_count(0)
    kept(page, 3, 1)
    with painted_before_it_is_read(page):
        page.reload()
        expect(page.locator(f"{PAST} > summary")).to_have_count(2)
    page.evaluate(NEXT_PAINT)  # behind which the browser has told of every shift until now
    assert page.evaluate("window.shifts") < 0.05
    expect(page.locator(PAST).first.locator("summary img")).to_be_visible()
    picture = unfold(page)
    expect(picture.locator(".thumbnail")).to_be_visible()
    repeat(service, picture.first, "Blue.")
    texts = unfold(page, 1)
    expect(texts).to_have_count(2)
    expect(texts.first.locator("[data-count-of]")).to_contain_text("2")
    expect(texts.first.locator(".answer")).to_have_text("Two.")
    expect(page.locator(".follow-up").locator("visible=true")).to_have_count(2)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    with page.expect_request("**/api/v1/text/generate") as sent:
        texts.nth(1).locator(".chips button").first.click()
    assert [turn["text"] for turn in sent.value.post_data_json["history"]] == ["Two.", "Two."]
    finished(texts.nth(2))


def test_the_card_of_earlier_questions_is_never_empty(service, open_page):
    """While there are none of an earlier visit, it says where those of this one are; behind that it lists them."""
    page = open_page(service.url)
    finished(ask_text(page, "A listing"))
    none = page.locator("#history .none")
    expect(none).to_have_text(re.compile("only the questions of this visit"))
    expect(none).to_be_visible()
    page.reload()
    expect(page.locator(PAST)).to_have_count(1)
    expect(none).to_be_hidden()
    finished(ask_text(page, "Another"))
    expect(none).to_be_hidden()


def test_the_history_survives_what_people_do_and_is_cleared_on_request(service, open_page):
    """Another language, another page and Back, a closed tab; cleared, it is gone from the browser."""
    page = open_page(service.url)
    finished(ask_text(page, "A listing"))
    page.click("button[lang=ru]")
    expect(page.locator(f"{PAST} > summary")).to_contain_text("A listing")
    page.goto(f"{service.url}/status")
    page.go_back()
    expect(page.locator(PAST)).to_have_count(1)
    tab = page.context.new_page()
    page.close()
    tab.goto(service.url)
    expect(unfold(tab).locator(".answer")).to_have_text("An answer.")
    tab.once("dialog", lambda dialog: dialog.dismiss())
    tab.click("[data-do=clear-history]")
    expect(tab.locator(PAST)).to_have_count(1)
    tab.once("dialog", lambda dialog: dialog.accept())
    tab.click("[data-do=clear-history]")
    expect(tab.locator("#history")).to_be_hidden()
    tab.reload()
    expect(tab.locator("#text-prompt")).to_be_visible()
    assert tab.evaluate(STORED) == [0, 0]


def test_what_ended_without_an_answer_is_told_as_it_was(service, open_page):
    """A question that failed, and one that was stopped, after a reload; neither was left by anybody."""
    page = open_page(service.url)
    service.script(fail=True)
    expect(ask_text(page, "Failed").locator(".failure")).to_be_visible()
    service.script(waiting=1)
    ask_text(page, "Stopped")
    page.locator(f"{TEXT} [data-do=halt]:visible").click()
    expect(page.locator(TEXT).first.locator(".note")).to_contain_text("Stopped")
    page.reload()
    expect(unfold(page).locator(".note")).to_contain_text("Stopped")
    failed = unfold(page, 1)
    expect(failed.locator("[data-failure=message]")).to_have_text("The model failed on this request.")
    expect(failed.locator(".note")).to_be_hidden()
    expect(failed.locator("[data-do=again]")).to_be_visible()


def test_the_history_is_bounded(service, open_page):
    """Fifty exchanges; the pictures of conversations that are gone go too."""
    page = open_page(service.url)
    choose(page)
    finished(ask_image(page))
    expect(page.locator("#history")).to_be_visible()
    kept(page, 1, 1)
    page.evaluate("""async () => {
      const { keep, keepPictures } = await import(document.querySelector("[href*='/history.js']").href);
      const question = { prompt: "x" };
      const record = { kind: "text", question, previews: [], variants: [{ raw: "y" }], shown: 0, stream: "" };
      for (let id = Date.now() + 1000, end = id + 60; id < end; id++) await keep({ ...record, id, thread: id });
      await keepPictures(Date.now() + 1059, []);
    }""")
    assert page.evaluate(STORED) == [50, 1]
    page.reload()
    expect(page.locator(PAST)).to_have_count(50)


BUSY = """() => new Promise((resolve) => {
  const request = indexedDB.open("history ", 1);
  request.onsuccess = () => {
    const store = request.result.transaction("exchanges", "readwrite").objectStore("exchanges");
    const hold = () => (store.count().onsuccess = hold);
    hold();
    resolve();
  };
})"""
UNWRITTEN = "Object.keys(sessionStorage).filter((name) => name.startsWith('unwritten')).length"


def test_a_reload_loses_nothing_that_the_browser_has_not_written_yet(service, open_page):
    """As on a slow disk: neither the question, nor its answer."""
    page = open_page(service.url)
    page.evaluate(BUSY)
    finished(ask_text(page, "A listing"))
    assert page.evaluate(UNWRITTEN) == 1
    page.reload()
    expect(unfold(page).locator(".answer")).to_have_text("An answer.")
    assert page.evaluate(STORED) == [1, 0]
    assert page.evaluate(UNWRITTEN) == 0


def test_nothing_unwritten_comes_back_of_a_history_that_is_cleared(service, open_page):
    """Also not by a reload before the browser has cleared it."""
    page = open_page(service.url)
    page.evaluate(BUSY)
    finished(ask_text(page, "A listing"))
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("[data-do=clear-history]")
    page.reload()
    expect(page.locator("#text-prompt")).to_be_visible()
    assert page.evaluate(STORED) == [0, 0]
    expect(page.locator(PAST)).to_have_count(0)


HISTORY = """const history = await import(document.querySelector("[href*='/history.js']").href);"""
NOTED = "Object.keys(localStorage).filter((name) => name.startsWith('removed')).length"


def cleared(page):
    """Ask for the history to be cleared, which the browser may not have done yet."""
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("[data-do=clear-history]")


def test_a_history_that_is_cleared_is_gone_though_the_browser_was_busy(service, open_page):
    """What it had written before goes with the next page, and what is written after that stays."""
    page = open_page(service.url)
    choose(page)
    finished(ask_image(page))
    kept(page, 1, 1)
    page.evaluate(BUSY)
    cleared(page)
    assert page.evaluate(NOTED) == 1
    finished(ask_text(page, "Another"))
    page.reload()
    expect(unfold(page).locator(".question")).to_have_text("Another")
    expect(page.locator(PAST)).to_have_count(1)
    assert page.evaluate(STORED) == [1, 0]
    assert page.evaluate(NOTED) == 0


def test_a_history_that_another_tab_has_cleared_does_not_come_back(service, open_page):
    """Nor what this tab has not written until then."""
    page = open_page(service.url)
    page.evaluate(
        "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('', 'QuotaExceededError'); }; }"
    )
    finished(ask_text(page, "A listing"))
    assert page.evaluate(UNWRITTEN) == 1
    other = page.context.new_page()
    other.goto(service.url)
    finished(ask_text(other, "Another"))
    cleared(other)
    page.wait_for_function(f"() => {UNWRITTEN} === 0")
    page.reload()
    expect(page.locator("#text-prompt")).to_be_visible()
    assert page.evaluate(STORED) == [0, 0]
    expect(page.locator(PAST)).to_have_count(0)


def test_what_cannot_be_removed_is_not_shown(service, open_page):
    """It is tried again with each page."""
    page = open_page(service.url)
    finished(ask_text(page, "A listing"))
    kept(page, 1)
    fails = "IDBObjectStore.prototype.delete = () => { throw new DOMException('', 'UnknownError'); };"
    page.add_init_script(f"if (!sessionStorage.mended) {fails}")
    page.reload()
    expect(page.locator(PAST)).to_have_count(1)
    cleared(page)
    for left in (1, 1, 0):
        page.evaluate("(mended) => { sessionStorage.mended = mended; }", "" if left else "yes")
        page.reload()
        page.wait_for_function(f"(left) => {NOTED} === left", arg=left, polling=100)
        assert page.evaluate(f"async () => {{ {HISTORY} return (await history.conversations()).length; }}") == 0
        assert page.evaluate(STORED) == [left, 0]


FAILING = {
    "full": "throw new DOMException('', 'QuotaExceededError');",
    "aborted": "const asked = put.apply(this, given); this.transaction.abort(); return asked;",
}


@pytest.mark.parametrize("failing", FAILING)
def test_what_could_not_be_written_is_written_by_the_next_page(service, open_page, failing):
    """As on a disk that was full then; the answer comes all the same."""
    page = open_page(service.url)
    page.evaluate(f"""() => {{
      const {{ put }} = IDBObjectStore.prototype;
      IDBObjectStore.prototype.put = function (...given) {{ {FAILING[failing]} }};
    }}""")
    finished(ask_text(page, "A listing"))
    page.evaluate(NEXT_PAINT)
    assert page.evaluate(STORED) == [0, 0]
    assert page.evaluate(UNWRITTEN) == 1
    page.reload()
    expect(unfold(page).locator(".answer")).to_have_text("An answer.")
    assert page.evaluate(STORED) == [1, 0]
    assert page.evaluate(UNWRITTEN) == 0


@pytest.mark.parametrize("how", ["throw error;", "return open.call(this, 'history ', 0.5);"], ids=["thrown", "refused"])
def test_a_history_that_did_not_open_once_opens_later(service, open_page, how):
    """Without a reload."""
    page = open_page("about:blank")
    page.add_init_script(f"""
      const error = new DOMException("", "UnknownError");
      const {{ open }} = IDBFactory.prototype;
      IDBFactory.prototype.open = function (...given) {{
        IDBFactory.prototype.open = open;
        {how}
      }};
    """)
    page.goto(service.url)
    finished(ask_text(page, "A listing"))
    kept(page, 1)


MANY = """async (ahead) => {
  const { keep } = await import(document.querySelector("[href*='/history.js']").href);
  const question = { prompt: "x" };
  const record = { kind: "text", question, previews: [], variants: [{ raw: "y" }], shown: 0, stream: "" };
  for (let id = Date.now() + ahead, end = id + 60; id < end; id++) await keep({ ...record, id, thread: id });
}"""


def test_a_question_is_kept_behind_those_of_a_clock_that_was_ahead(service, open_page):
    """The newest is never the one that goes."""
    page = open_page(service.url)
    page.evaluate(MANY, 86_400_000)
    finished(ask_text(page, "Today"))
    expect(page.locator("#history")).to_be_visible()
    page.reload()
    expect(page.locator(PAST)).to_have_count(50)
    expect(page.locator(PAST).last).to_contain_text("Today")


def test_what_a_browser_never_writes_is_bounded(service, open_page):
    """As many questions as a history has."""
    page = open_page("about:blank")
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
    page.goto(service.url)
    page.evaluate(MANY, 0)
    assert page.evaluate("JSON.parse(sessionStorage.getItem('unwritten history ')).length") == 50


def test_what_the_browser_has_removed_is_kept_again(service, open_page):
    """As when it needs room, or its user clears it: the next question is kept without a reload."""
    page = open_page(service.url)
    finished(ask_text(page, "One"))
    expect(page.locator("#history")).to_be_visible()
    kept(page, 1)
    line = page.context.new_cdp_session(page)
    line.send("Storage.clearDataForOrigin", {"origin": service.url, "storageTypes": "indexeddb"})
    for question in ("Two", "Three"):
        finished(ask_text(page, question))
    kept(page, 2)
    page.reload()
    expect(page.locator(PAST)).to_have_count(2)


def test_a_browser_that_keeps_nothing_answers_all_the_same(service, open_page):
    """As some do in private windows."""
    page = open_page("about:blank")
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
    page.goto(service.url)
    finished(ask_text(page))
    page.reload()
    expect(page.locator(IMAGE)).to_have_count(0)
    expect(page.locator("#history")).to_be_hidden()
