"""The text form in a real browser with a real Gunicorn: streaming, stopping, and arbitrary model output."""

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import IMAGE, RED, TEXT, ask_text, choose, finished
from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.needs("chromium")

HOSTILE = (
    "# Title <script>window.taken = 1</script>\n\n<img src=x onerror='window.taken = 2'>\n\n"
    "[click](javascript:window.taken=3) [data](data:text/html,<script>) ![pic](http://127.0.0.1:1/x.png)\n\n"
    '```html" onmouseover="window.taken = 4\n<iframe srcdoc="<script>window.taken = 5</script>"></iframe>\n```\n\n'
    "</div></template><style>body { display: none }</style><form action=//evil><button>**bold** <svg onload=alert(6)>\n"
)
NEVER = ".answer :is(script, img, iframe, style, form, button:not([data-do=copy-code]), svg, object, template, input)"


@pytest.mark.parametrize(("locale", "figure"), [("en-US", "Tokens out"), ("ru-RU", "Токенов в ответе")])
def test_an_answer_streams_in_and_ends_with_its_figures(service, open_page, locale, figure):
    """Streamed Markdown becomes elements; the figures are the server's, in the reader's language."""
    service.script(pieces=["A **red** ", "bicycle.\n\n", "- one\n", "- two"], hold=True)
    page = open_page(service.url, locale=locale)
    exchange = ask_text(page)
    expect(exchange.locator(".answer strong")).to_have_text("red")
    expect(exchange.locator(".answer li")).to_have_count(2)
    expect(exchange).to_have_attribute("aria-busy", "true")
    page.click("form[data-kind=text] [data-do=stop]")
    service.script(pieces=["A **red** ", "bicycle."])
    figures = finished(ask_text(page))
    assert (figures["input_tokens"], figures["generated_tokens"]) == ("7", "2")
    assert len(figures["request_id"]) == 36
    assert re.fullmatch(r"[\d,.]+\s(m?s|м?с)", figures["seconds"])
    assert re.fullmatch(r"50\s(ms|мс)", figures["first_token"])
    page.locator(TEXT).first.locator("summary").click()
    expect(page.locator(TEXT).first.locator(".figures dt").nth(1)).to_have_text(figure)


def test_a_page_without_scripts_answers_too(service, open_page):
    """Both forms, Markdown and all figures, with JavaScript off."""
    service.script(pieces=["A **red** square."])
    page = open_page(service.url, java_script_enabled=False, locale="ru-RU")
    page.fill("#text-prompt", "Привет")
    page.click("form[data-kind=text] [data-do=send]")
    assert finished(page.locator(TEXT))["generated_tokens"] == "1"
    expect(page.locator(f"{TEXT} .answer strong")).to_have_text("red")
    expect(page.locator("#text-prompt")).to_have_value("Привет")
    page.set_input_files("#image-file", RED)
    page.fill("#image-prompt", "Что это?")
    page.click("form[data-kind=image] [data-do=send]")
    assert finished(page.locator(IMAGE))["input_tokens"] == "7"
    expect(page.locator(f"{IMAGE} .thumbnail")).to_be_visible()
    page.goto(service.url)
    page.click("form[data-kind=text] [data-example] >> nth=1")
    expect(page.locator("#text-prompt")).not_to_be_empty()


@pytest.mark.parametrize("scripts", [True, False])
def test_what_a_model_says_stays_text(service, open_page, scripts):
    """Markup, scripts and foreign addresses in an answer are shown as text, not run or fetched."""
    service.script(pieces=[HOSTILE[at : at + 5] for at in range(0, len(HOSTILE), 5)])
    page = open_page(service.url, java_script_enabled=scripts)
    elsewhere = []
    page.on("request", lambda request: request.url.startswith(service.url) or elsewhere.append(request.url))
    page.fill("#text-prompt", "x")
    page.click("form[data-kind=text] [data-do=send]")
    answer = page.locator(f"{TEXT} .answer").first
    finished(page.locator(TEXT).first)
    for text in ("<script>window.taken = 1</script>", "<img src=x", "<iframe srcdoc=", "<svg onload=alert(6)>"):
        expect(answer).to_contain_text(text)
    expect(page.locator(NEVER)).to_have_count(0)
    expect(answer.locator("a[href^=javascript], a[href^=data]")).to_have_count(0)
    expect(answer.locator("strong")).to_have_text("bold")
    assert [url for url in elsewhere if not url.startswith(("blob:", "data:"))] == []
    if scripts:
        assert page.evaluate("window.taken") is None


def test_stop_stops_the_model_and_keeps_what_was_said(service, open_page):
    """The engine aborts; the partial text stays, and the question can be sent again."""
    service.script(pieces=["Half of it"], hold=True)
    page = open_page(service.url)
    before = len(service.aborted())
    exchange = ask_text(page)
    expect(exchange.locator(".answer")).to_have_text("Half of it")
    page.press("[data-kind=text] [data-do=stop]", "Enter")
    until(lambda: len(service.aborted()) == before + 1)
    expect(exchange.locator(".note")).to_contain_text("Stopped")
    expect(exchange.locator(".answer")).to_have_text("Half of it")
    service.script(pieces=["All of it"])
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator(".answer")).to_have_text("All of it")
    finished(exchange)


def test_what_is_typed_is_counted_and_kept(service, open_page):
    """The count uses the server's limit; examples fill the field; a reload and a change of language keep it."""
    page = open_page(service.url)
    page.fill("#text-prompt", "Hello")
    expect(page.locator("form[data-kind=text] [data-count]")).to_have_text("5 of 2,000")
    page.click("form[data-kind=image] [data-example] >> nth=0")
    expect(page.locator("#image-prompt")).to_have_value("What is in the picture?")
    page.click("button[lang=ru]")
    expect(page.locator("h2").first).to_contain_text("Написать текст")
    expect(page.locator("#text-prompt")).to_have_value("Hello")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    expect(page.locator("form[data-kind=text] [data-count]")).to_contain_text("5 из")


def test_length_and_temperature_reach_the_model(service, open_page):
    """Under "More"; an answer that reached its maximum length says so, one that ended just there does not."""
    service.script(pieces=["One", " two"], end="length")
    page = open_page(service.url)
    page.click("form[data-kind=text] summary")
    page.fill("#text-length", "2")
    page.fill("#text-temperature", "0.5")
    with page.expect_request("**/api/v1/text/generate") as sent:
        exchange = ask_text(page)
    assert sent.value.post_data_json == {"prompt": "Hello", "stream": True, "max_tokens": 2, "temperature": 0.5}
    finished(exchange)
    expect(exchange.locator(".note")).to_contain_text("reached its maximum length")
    service.script(pieces=["One", " two"])
    whole = ask_text(page)
    finished(whole)
    expect(whole.locator(".note")).to_be_hidden()
    expect(whole.locator("[data-do=continue]")).to_be_hidden()


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize(("field", "wrong"), [("length", "99999"), ("length", "1.5"), ("temperature", "3")])
def test_a_wrong_number_that_is_folded_away_is_shown(service, open_page, kind, field, wrong):
    """Where the form cannot be sent because of it, it unfolds and has the focus; corrected, it is sent."""
    page = open_page(service.url)
    if kind == "image":
        choose(page)
    summary = page.locator(f"#{kind}-form details summary")
    summary.click()
    page.fill(f"#{kind}-{field}", wrong)
    summary.click()
    expect(page.locator(f"#{kind}-{field}")).to_be_hidden()
    page.fill(f"#{kind}-prompt", "Hello")
    page.click(f"#{kind}-form [data-do=send]")
    expect(page.locator(f"#{kind}-{field}")).to_be_focused()
    page.fill(f"#{kind}-{field}", "1")
    page.click(f"#{kind}-form [data-do=send]")
    finished(page.locator(f"[data-exchanges={kind}] .exchange"))


def test_both_forms_answer_at_the_same_time(service, open_page):
    """Requests to the two models run concurrently."""
    service.script(pieces=["Open"], hold=True)
    page = open_page(service.url)
    text = ask_text(page)
    expect(text.locator(".answer")).to_have_text("Open")
    service.script(pieces=["Red"])
    choose(page)
    page.fill("#image-prompt", "x")
    page.press("#image-prompt", "Control+Enter")
    finished(page.locator(IMAGE).first)
    expect(text).to_have_attribute("aria-busy", "true")
    page.click("form[data-kind=text] [data-do=stop]")


def test_an_answer_is_rated_with_a_thumb(service, open_page):
    """Once; the button that was pressed stays marked, and what repeats the answer can be rated anew."""
    page = open_page(service.url)
    exchange = ask_text(page)
    finished(exchange)
    with page.expect_response("**/api/v1/feedback") as answer:
        exchange.locator("[data-do=up]").click()
    assert answer.value.json() == {"success": True, "counted": True}
    expect(exchange.locator("[data-do=up]")).to_have_attribute("aria-pressed", "true")
    expect(exchange.locator("[data-do=down]")).to_be_disabled()
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator("[data-do=down]")).to_be_enabled()
    expect(exchange.locator("[data-do=up]")).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize("problem", ["SecurityError", "QuotaExceededError"])
def test_a_browser_that_keeps_no_drafts_answers_all_the_same(service, open_page, problem):
    """Where cookies are blocked, each use of the storage fails; where it is full, each write."""
    fails = f"() => {{ throw new DOMException('no', '{problem}'); }}"
    full = f"Storage.prototype.setItem = {fails}"
    blocked = f"Object.defineProperty(window, 'sessionStorage', {{ get: {fails} }})"
    page = open_page("about:blank")
    page.add_init_script(full if problem == "QuotaExceededError" else blocked)
    page.goto(service.url)
    page.fill("#text-prompt", "Hello")
    expect(page.locator("form[data-kind=text] [data-count]")).to_contain_text("5")
    finished(ask_text(page))


def test_an_emoji_is_one_character(service, open_page):
    """As the server counts it."""
    page = open_page(service.url)
    page.fill("#text-prompt", "😀" * 1500)
    expect(page.locator("form[data-kind=text] [data-count]")).to_contain_text("1,500")
    expect(page.locator("#text-prompt")).to_have_attribute("aria-invalid", "false")


def test_a_double_click_does_not_stop_what_it_asks_for(service, open_page):
    """The button that stops takes the place of the one that sends."""
    service.script(pieces=["One.", " Two."], hold=True)
    page = open_page(service.url)
    page.fill("#text-prompt", "Hello")
    page.dblclick("form[data-kind=text] [data-do=send]")
    exchange = page.locator(TEXT).first
    expect(exchange.locator(".answer")).to_contain_text("One.")
    expect(exchange).to_have_attribute("aria-busy", "true")
    page.click("form[data-kind=text] [data-do=stop]")
    expect(exchange).not_to_have_attribute("aria-busy", "true")


TABLE = "|1|2|\n|-|-|\n|3|4|\nИтого 5 | 6 рублей"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_text_behind_a_table_stays_whole(service, open_page, size):
    """It begins a paragraph, however the answer was cut."""
    service.script(pieces=[TABLE[at : at + size] for at in range(0, len(TABLE), size)])
    page = open_page(service.url)
    exchange = ask_text(page)
    finished(exchange)
    answer = exchange.locator(".answer")
    expect(answer.locator("table").first).to_have_text("1234")
    expect(answer.locator(":scope > p")).to_have_text(["Итого 5 | 6 рублей"])


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "table", "behind"),
    [
        ("|1|2|\n---|---\n|3|4|\n  Итого | 6", "1234", ["Итого | 6"]),
        ("|1|2|\n:--|--:\n|3|4|\n\nИтого", "1234", ["Итого"]),
        ("|1|\nИтого\n\nи ещё", "1", ["Итого", "и ещё"]),
    ],
)
def test_the_second_line_of_a_table_decides_what_it_is(service, open_page, text, table, behind, size):
    """Its row of dashes may begin without a pipe; what is indented behind the table is none of its rows."""
    service.script(pieces=[text[at : at + size] for at in range(0, len(text), size)])
    page = open_page(service.url)
    exchange = ask_text(page)
    finished(exchange)
    answer = exchange.locator(".answer")
    expect(answer.locator("table")).to_have_text([table])
    expect(answer.locator(":scope > p")).to_have_text(behind)


def test_a_change_of_language_without_scripts_loses_nothing(service, open_page):
    """Whichever form something is typed into; where both have something, the text form."""
    page = open_page(service.url, java_script_enabled=False)
    page.locator("#text-form .choice").nth(1).click()
    page.fill("#text-item", "bicycle")
    page.locator("#text-form summary").click()
    page.fill("#text-temperature", "0.5")
    page.locator("button[lang=ru]:visible").click()
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    expect(page.locator("#text-item")).to_have_value("bicycle")
    expect(page.locator("#text-temperature")).to_have_value("0.5")
    page.fill("#text-item", "")
    page.fill("#image-prompt", "Что это?")
    page.locator("button[lang=en]:visible").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator("#image-prompt")).to_have_value("Что это?")


def test_a_change_of_language_keeps_every_field(service, open_page):
    """Of both forms and of a follow-up."""
    page = open_page(service.url)
    finished(ask_text(page))
    typed = {"#text-prompt": "Hello", "#text-length": "77", "#image-prompt": "What?", "#image-temperature": "0.5"}
    for form in ("text", "image"):
        page.locator(f"#{form}-form summary").click()
    for field, text in typed.items():
        page.fill(field, text)
    page.locator(f"{TEXT} .change textarea").fill("Without the price")
    page.click("button[lang=ru]")
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    for field, text in typed.items():
        expect(page.locator(field)).to_have_value(text)
        expect(page.locator(field)).to_be_visible()
    expect(page.locator("[data-past] .change textarea")).to_have_value("Without the price")


def test_nothing_typed_is_lost_while_the_models_load(service, open_page):
    """Without scripts the page stays as it is; another tab shows how far they are."""
    service.script(status="loading", progress=[4_000_000_000, 16_000_000_000])
    page = open_page(service.url, java_script_enabled=False, locale="ru-RU")
    page.fill("#text-prompt", "Hello")
    with page.context.expect_page() as opened:
        page.locator("noscript a").click()
    expect(opened.value.locator("#state progress").first).to_be_visible()
    expect(page.locator("#text-prompt")).to_have_value("Hello")
    page.click("form[data-kind=text] [data-do=send]")
    expect(page.locator("#text-prompt")).to_have_value("Hello")


QUOTED = "> Цены:\n>\n> | a | b |\n> |---|---|\n> | 1 | 2 |\n> | 3 | 4 |\n>\n> Итого **10**\n\nПосле | неё"
BARE = "> | a | b |\n> |---|---|\n> | 1 | 2 |\n> Прямо за ней\n\n> | c |\n> |---|\n\nПосле"


@pytest.mark.parametrize("scripts", [1, 5, 1000, 0])
def test_a_table_in_a_quote_is_one(service, open_page, scripts):
    """With what stands behind it in the quote and behind the quote, however the answer was cut, without scripts too."""
    size = scripts or 1000
    answers = []
    for text in (QUOTED, BARE):
        service.script(pieces=[text[at : at + size] for at in range(0, len(text), size)])
        page = open_page(service.url, java_script_enabled=bool(scripts))
        page.fill("#text-prompt", "x")
        page.click("form[data-kind=text] [data-do=send]")
        finished(page.locator(TEXT).first)
        answers.append(page.locator(f"{TEXT} .answer").first)
    first, second = answers
    expect(first.locator("blockquote > .scroll > table")).to_have_count(1)
    expect(first.locator("blockquote tr")).to_have_count(3)
    expect(first.locator("blockquote td")).to_have_text(["1", "2", "3", "4"])
    expect(first.locator("blockquote > p")).to_have_text(["Цены:", "Итого 10"])
    expect(first.locator("blockquote strong")).to_have_text("10")
    expect(first.locator(":scope > p")).to_have_text(["После | неё"])
    expect(second.locator("blockquote")).to_have_count(2)
    expect(second.locator("blockquote > .scroll > table")).to_have_count(2)
    if scripts:  # the server takes a line right behind a table for another row
        expect(second.locator("blockquote > p")).to_have_text(["Прямо за ней"])
    expect(second.locator(":scope > p")).to_have_text(["После"])


# What is written into the page with each of many events: characters, text nodes in the end, what is left to be said.
WORK = """async ([piece, count]) => {
  const { Exchange } = await import(document.querySelector("[href*='/exchange.js']").href);
  const exchange = new Exchange({ prompt: "", files: [], previews: [] }, "text");
  document.querySelector("[data-exchanges=text]").append(exchange.thread());
  const observer = new MutationObserver(() => {});
  observer.observe(document, { subtree: true, childList: true, characterData: true });
  const written = [];
  let unsaid = 0;
  for (let event = 0; event < count; event++) {
    exchange.write(piece);
    const added = ({ target, addedNodes }) => [...(addedNodes.length ? addedNodes : [target])];
    const nodes = new Set(observer.takeRecords().filter((one) => !one.removedNodes.length).flatMap(added));
    written.push([...nodes].reduce((sum, node) => sum + node.textContent.length, 0));
    unsaid = Math.max(unsaid, exchange.unsaid.length);
  }
  exchange.end("");
  const answer = exchange.part(".answer");
  const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
  let nodes = 0;
  while (walker.nextNode()) nodes += 1;
  return { most: Math.max(...written), nodes, unsaid, length: answer.textContent.length };
}"""


@pytest.mark.parametrize("piece", ["слово ", "7", "x"])
def test_a_long_paragraph_costs_no_more_with_each_event(service, open_page, piece):
    """However long it has become, without the end of a sentence; nothing of it is lost."""
    page = open_page(service.url)
    work = page.evaluate(WORK, [piece, 4000])
    assert work["length"] >= len(piece * 4000) - 1  # a blank at its end is none of its text
    assert work["most"] <= 2000
    assert work["nodes"] <= work["length"] / 1000 + 2
    assert work["unsaid"] <= 500
