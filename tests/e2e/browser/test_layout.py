"""The page at every window size, in print, and its transfer size."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import TEXT, ask_image, ask_text, choose, finished, unfold

pytestmark = pytest.mark.needs("chromium")

WIDTHS = (320, 768, 1440, 3840)
TEMPLATES = [
    *(("text", name) for name in ("free", "listing", "title", "reply", "price_line")),
    *(("image", name) for name in ("free", "photo_title", "photo_condition")),
]
LONG = "a" * 300 + "\n\n```\n" + "b" * 300 + "\n```\n\n| a | b |\n|---|---|\n| " + "c" * 200 + " | d |\n"
KILOBYTES = 120
OUTSIDE = """() => [...document.querySelectorAll(".answer > *")]
  .filter((one) => one.getBoundingClientRect().left < one.parentElement.getBoundingClientRect().left)
  .map((one) => one.outerHTML.slice(0, 80))"""


# Controls that show less than they hold: lists of any of their options, lines of their hints, buttons of their words.
CUT = """() => [...document.querySelectorAll("select, button, input[placeholder], .choice span, .examples a")]
  .filter((one) => one.checkVisibility({ checkVisibilityCSS: true }))
  .filter((one) => {
    if (one.matches("input")) {
      const [pen, style] = [document.createElement("canvas").getContext("2d"), getComputedStyle(one)];
      pen.font = style.font;
      const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
      return pen.measureText(one.placeholder).width > one.clientWidth - padding;
    }
    if (!one.matches("select")) return one.scrollWidth > one.clientWidth;
    const whole = one.parentElement.appendChild(one.cloneNode(true));
    Object.assign(whole.style, { position: "absolute", width: "max-content", maxWidth: "none" });
    const wanted = whole.offsetWidth;
    whole.remove();
    return wanted > one.offsetWidth;
  })
  .map((one) => one.outerHTML.slice(0, 80))"""


def overflow(page):
    """Return by how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_nothing_is_wider_than_the_window(service, open_page):
    """From a small phone to a large screen, with an answer that has no blanks and with the operator's plots."""
    service.script(pieces=[LONG])
    page = open_page(service.url, locale="ru-RU")
    choose(page)
    finished(ask_text(page, "x" * 500))
    finished(ask_image(page))
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0, width
        assert page.evaluate(OUTSIDE) == [], width
    page.goto(f"{service.url}/status")
    expect(page.locator("[data-plot=tokens] svg").first).to_be_visible()
    page.click("#table summary")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0, width


@pytest.mark.parametrize("locale", ["en-US", "ru-RU"])
@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280])
def test_no_control_of_the_forms_is_cut(service, open_page, locale, width):
    """Each list has room for each of its options and each line for its hint, in every template."""
    page = open_page(service.url, locale=locale, viewport={"width": width, "height": 800})
    choose(page)
    finished(ask_text(page))
    finished(ask_image(page))
    for one in page.locator("form[data-kind] summary").all():
        one.click()
    for kind, template in TEMPLATES:
        page.check(f"form[data-kind={kind}] [value={template}]")
        assert page.evaluate(CUT) == []
        assert overflow(page) <= 0


# Whether a form and its button are in view, all of them, at some place of the page within a window of the form's top.
REACHED = """(kind) => {
  const form = document.querySelector(`form[data-kind=${kind}]`);
  const inside = ({ top, bottom }) => top >= 0 && bottom <= innerHeight;
  const parts = [form, form.querySelector("[data-do=send]")];
  const seen = () => parts.every((part) => inside(part.getBoundingClientRect()));
  scrollTo(0, 0);
  const top = form.getBoundingClientRect().top;
  for (let y = top - 20; y < top + innerHeight; y += 20) {
    scrollTo(0, y);
    if (seen()) return true;
  }
  return false;
}"""


ON_TOP = """(field) => {
  const { left, top } = field.getBoundingClientRect();
  return field.contains(document.elementFromPoint(left + 5, top + 15)); // its first line
}"""


@pytest.mark.parametrize(("width", "height"), [(1280, 585), (1366, 650), (1093, 520), (1920, 950)])
def test_what_sticks_fits_the_window(service, open_page, width, height):
    """Beside a long answer, the form with its button stays in view in every template, with all of it within reach."""
    service.script(pieces=["Paragraph of an answer that is long enough.\n\n"] * 40)
    page = open_page(service.url, viewport={"width": width, "height": height})
    choose(page)
    finished(ask_text(page))
    finished(ask_image(page))
    for kind, template in TEMPLATES:
        form = page.locator(f"form[data-kind={kind}]")
        page.check(f"form[data-kind={kind}] [value={template}]")
        assert page.evaluate(REACHED, kind), (kind, template)
        for field in form.locator("textarea, select, summary").all():
            field.focus()
            assert not field.is_visible() or field.evaluate(ON_TOP), (kind, template)


@pytest.mark.parametrize("locale", ["en-US", "ru-RU"])
def test_the_description_fits_every_window(service, open_page, locale):
    """With everything unfolded, on a phone, a tablet and a desk."""
    page = open_page(f"{service.url}/api/docs", locale=locale)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for width in (*WIDTHS, 390, 1023, 1024):
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0, width


def test_the_description_unfolds_without_scripts(service, open_page):
    """A link to a schema opens it, a click opens the fields, and the language can be chosen."""
    page = open_page(f"{service.url}/api/docs", java_script_enabled=False)
    operation = page.locator("#openai_chat_completions")
    fields = operation.locator("details", has_text="Fields of the body")
    expect(fields.locator("dl")).to_be_hidden()
    fields.locator("summary").click()
    expect(fields.locator("dl")).to_be_visible()
    expect(page.locator("#schema-StructuredOutputs")).to_be_hidden()
    fields.get_by_role("link", name="StructuredOutputs").click()
    expect(page.locator("#schema-StructuredOutputs")).to_be_visible()
    page.get_by_role("button", name="Русский").click()
    expect(page).to_have_url(f"{service.url}/api/docs")
    expect(page.get_by_role("heading", name="Содержание")).to_be_visible()


def test_the_pages_are_light_and_keep_their_files(service, open_page):
    """Each under 120 KB in all as they are sent; files with a fingerprint are not fetched again."""
    page = open_page("about:blank", locale="ru-RU")
    sent, responses = [], []
    page.on("response", lambda response: responses.append(response))
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    line.on("Network.loadingFinished", lambda event: sent.append(event["encodedDataLength"]))
    for path, files in (("/", 20), ("/status", 4), ("/api/docs", 1)):
        sent.clear()
        responses.clear()
        page.goto(service.url + path, wait_until="networkidle")
        assert 10_000 < sum(sent) < KILOBYTES * 1000, path
        assert all(response.url.startswith(service.url) for response in responses)
        kept = [one for one in responses if "immutable" in one.headers.get("cache-control", "")]
        assert len(kept) >= files, path


def test_paper_has_the_answer_and_no_forms(service, open_page):
    """Print shows questions and answers only."""
    page = open_page(service.url)
    finished(ask_text(page, "A question"))
    page.emulate_media(media="print")
    for shown in (f"{TEXT} .question", f"{TEXT} .answer"):
        expect(page.locator(shown)).to_be_visible()
    ours = (f"{TEXT} .actions", f"{TEXT} .about")
    for hidden in ("form[data-kind=text]", "form[data-kind=image]", ".languages", "footer", *ours):
        expect(page.locator(hidden)).to_be_hidden()


WIDE = "".join("|" + f"{cell}|" * 14 + "\n" for cell in ("columnheading", "---", "a_long_value_of_a_cell"))
CUT_OFF_PAPER = """() => [...document.querySelectorAll(".scroll")]
  .filter((one) => one.scrollWidth > one.clientWidth || getComputedStyle(one).overflowX !== "visible").length"""


@pytest.mark.parametrize("width", [700, 1280])
def test_paper_has_an_earlier_conversation_alone(service, open_page, width):
    """Without the cards in which nothing was asked, without a button, and with all columns of its tables."""
    service.script(pieces=[WIDE])
    page = open_page(service.url, viewport={"width": width, "height": 900})
    finished(ask_text(page, "A question"))
    expect(page.locator("#history")).to_be_visible()
    page.reload()
    expect(unfold(page).locator("table")).to_be_visible()
    page.emulate_media(media="print")
    expect(page.locator("#history .answer")).to_be_visible()
    expect(page.locator(".forms > .card").locator("visible=true")).to_have_count(0)
    expect(page.locator("[data-do=clear-history]")).to_be_hidden()
    assert page.evaluate(CUT_OFF_PAPER) == 0
    assert overflow(page) <= 0


def test_what_is_chosen_is_seen_in_the_colours_of_the_system(service, open_page):
    """The template, and the rating of an answer, by more than their words."""
    page = open_page(service.url)
    finished(ask_text(page))
    page.locator(f"{TEXT} [data-do=up]").click()
    expect(page.locator(f"{TEXT} [data-do=up]")).to_have_attribute("aria-pressed", "true")
    page.check("form[data-kind=text] [value=listing]")
    page.emulate_media(forced_colors="active")
    ground = "(one) => getComputedStyle(one).backgroundColor"
    plain = page.locator(".forms > .card").first.evaluate(ground)
    for chosen in ("form[data-kind=text] [value=listing] + span", f"{TEXT} [data-do=up]"):
        assert page.locator(chosen).evaluate(ground) != plain


HEBREW = (
    "שלום\n\n- ראשון\n- English (one).\n\n> ציטוט\n\n| פריט | מחיר |\n|---|---|\n| אופניים | 5000 |"
    "\n\n`a.b()` כן\n\n- one"
)
# Where things stand: the item's mark, the other item's text, the quote's bar, the first column, and a list in English.
SIDES = """() => {
  const part = (selector, at = 0) => document.querySelectorAll(`.answer ${selector}`)[at];
  const text = (element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return range.getBoundingClientRect();
  };
  const middle = (box) => (box.left + box.right) / 2;
  const all = part("> ul").getBoundingClientRect();
  const [first, second] = ["th", "th:nth-child(2)"].map((selector) => middle(part(selector).getBoundingClientRect()));
  const bar = getComputedStyle(part("blockquote"));
  return {
    item: all.right - text(part("li")).right > 20,
    other: all.right - text(part("li", 1)).right > 20 && text(part("li", 1)).left > middle(all),
    bar: parseFloat(bar.borderRightWidth) > 0 && parseFloat(bar.borderLeftWidth) === 0,
    columns: first > second,
    figure: middle(text(part("td:nth-child(2)"))) > middle(part("td:nth-child(2)").getBoundingClientRect()),
    code: getComputedStyle(part("code")).direction === "ltr",
    english: text(part("> ul:last-of-type > li")).left < middle(all),
  };
}"""


@pytest.mark.parametrize("scripts", [True, False])
def test_an_answer_from_right_to_left_is_laid_out_so(service, open_page, scripts):
    """Lists with their marks, quotes with their bars, tables with their columns; what is English beside them is not."""
    service.script(pieces=list(HEBREW))
    for colours in ("light", "dark"):
        page = open_page(
            service.url, java_script_enabled=scripts, color_scheme=colours, viewport={"width": 360, "height": 740}
        )
        page.fill("#text-prompt", "x")
        page.click("form[data-kind=text] [data-do=send]")
        finished(page.locator(TEXT).first)
        assert set(page.evaluate(SIDES).values()) == {True}, page.evaluate(SIDES)
        assert overflow(page) <= 0
