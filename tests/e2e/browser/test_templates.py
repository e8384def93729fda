"""The templates for sellers in a real browser, and what is typed: counted, refused, brought back."""

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import IMAGE, TEXT, ask_image, ask_text, choose, finished
from tests.fakes import image_bytes

pytestmark = pytest.mark.needs("chromium")

PICTURE = image_bytes()
SEND = "form[data-kind=text] [data-do=send]"
LISTING = {
    "en-US": "Write a listing for: desk, condition: a {scratch}, price: 50\nTwo drawers.\nKeep it short.",
    "ru-RU": "Напиши объявление: desk, состояние: a {scratch}, цена: 50\nTwo drawers.\nПиши коротко.",
}


@pytest.mark.parametrize("locale", sorted(LISTING))
@pytest.mark.parametrize("scripts", [True, False])
def test_a_listing_is_asked_for_by_its_fields(service, open_page, locale, scripts):
    """The same prompt with scripts and without them; only the fields of the template are shown, and they stay."""
    page = open_page(service.url, locale=locale, java_script_enabled=scripts)
    expect(page.locator("#text-city")).to_be_hidden()
    page.check("form[data-kind=text] [value=listing]")
    expect(page.locator("#text-city")).to_be_visible()
    expect(page.locator("#text-message")).to_be_hidden()
    for name, value in (("item", "desk"), ("condition", "a {scratch}"), ("price", "50"), ("prompt", "Two drawers.")):
        page.fill(f"#text-{name}", value)
    page.select_option("#text-length-wish", "short")
    page.click(SEND)
    finished(page.locator(TEXT).first)
    expect(page.locator(TEXT).first.locator(".question")).to_have_text(LISTING[locale])
    if scripts:
        page.reload()
    expect(page.locator("form[data-kind=text] [value=listing]")).to_be_checked()
    expect(page.locator("#text-condition")).to_have_value("a {scratch}")


def test_an_answer_in_detail_may_be_longer(service, open_page):
    """Unless a length in tokens is chosen."""
    page = open_page(service.url)
    page.select_option("#text-length-wish", "detailed")
    with page.expect_request("**/api/v1/text/generate") as sent:
        finished(ask_text(page))
    assert sent.value.post_data_json["max_tokens"] == 512
    assert sent.value.post_data_json["prompt"] == "Hello\nGo into detail."


def test_a_blank_form_is_refused_in_the_browser(service, open_page):
    """At the field that says what it is about; nothing is sent."""
    page = open_page(service.url)
    page.fill("#text-prompt", " \n ")
    page.click(SEND)
    assert page.evaluate("document.getElementById('text-prompt').validationMessage") == "Write here what it is about."
    page.check("form[data-kind=text] [value=title]")
    page.click(SEND)
    expect(page.locator("#text-item")).to_be_focused()
    expect(page.locator(TEXT)).to_have_count(0)
    page.fill("#text-item", "desk")
    page.click(SEND)
    finished(page.locator(TEXT).first)


def test_too_much_text_stays_and_is_counted(service, open_page):
    """What is pasted is cut nowhere; it is sent once it is short enough."""
    page = open_page(service.url)
    page.fill("#text-prompt", "x" * 2003)
    count = page.locator("form[data-kind=text] [data-count]")
    expect(count).to_have_text("2,003 of 2,000: 3 too many")
    expect(count).to_have_class("count over")
    page.click(SEND)
    expect(page.locator(TEXT)).to_have_count(0)
    assert len(page.input_value("#text-prompt")) == 2003
    page.fill("#text-prompt", "x" * 2000)
    expect(count).to_have_class("count")
    page.click(SEND)
    finished(page.locator(TEXT).first)


def test_an_example_can_be_taken_back(service, open_page):
    """It never overwrites what was typed for good; over a blank field there is nothing to take back."""
    page = open_page(service.url)
    undo = page.locator("form[data-kind=text] [data-do=undo]")
    page.click("form[data-kind=text] [data-example] >> nth=0")
    expect(undo).to_be_hidden()
    page.fill("#text-prompt", "My own words")
    page.click("form[data-kind=text] [data-example] >> nth=1")
    undo.click()
    expect(page.locator("#text-prompt")).to_have_value("My own words")
    expect(undo).to_be_hidden()


def test_a_listing_is_written_from_what_the_pictures_show(service, open_page):
    """The answer goes into the form of the listing, where the rest is filled in; what stood there comes back."""
    service.script(pieces=["A **red** bicycle."])
    page = open_page(service.url)
    page.fill("#text-prompt", "Before")
    choose(page)
    exchange = ask_image(page)
    finished(exchange)
    exchange.locator("[data-do=listing]").click()
    expect(page.locator("#text-item")).to_be_focused()
    expect(page.locator("#text-prompt")).to_have_value("A red bicycle.")
    page.fill("#text-price", "120")
    page.click(SEND)
    expect(page.locator(TEXT).first.locator(".question")).to_have_text(
        "Write a listing for: A red bicycle., price: 120"
    )
    expect(page.locator(TEXT).first.locator("[data-do=listing]")).to_be_hidden()
    page.click("form[data-kind=text] [data-do=undo]")
    expect(page.locator("#text-prompt")).to_have_value("Before")


def test_without_scripts_a_listing_is_written_at_once(service, open_page):
    """From the answer to the picture, with one button."""
    service.script(pieces=["A red bicycle."])
    page = open_page(service.url, java_script_enabled=False)
    page.set_input_files("#image-file", {"name": "a.png", "mimeType": "image/png", "buffer": PICTURE})
    page.check("form[data-kind=image] [value=photo_condition]")
    page.click("form[data-kind=image] [data-do=send]")
    page.locator(f"{IMAGE} .from-photos button").click()
    expect(page.locator(f"{TEXT} .question")).to_have_text("Write a listing for: A red bicycle.")
