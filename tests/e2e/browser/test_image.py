"""The image form in a real browser: every way to choose an image, and what is refused before it is sent."""

import base64

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import HAND_OVER, IMAGE, RED, ask_image, choose, finished
from tests.fakes import image_bytes

pytestmark = pytest.mark.needs("chromium")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_can_be_pasted_and_dropped(service, open_page, kind):
    """The image is shown with its name, size and pixels, and sent with the question."""
    page = open_page(service.url)
    page.evaluate(HAND_OVER, [kind, base64.b64encode(image_bytes()).decode(), "bike.png", "image/png"])
    expect(page.locator(".preview p")).to_have_text("bike.png: 1 KB, 64 × 48 pixels")
    service.script(pieces=["A red picture."])
    finished(ask_image(page))
    expect(page.locator(f"{IMAGE} .answer")).to_have_text("A red picture.")
    expect(page.locator(f"{IMAGE} .thumbnail")).to_be_visible()


def test_several_questions_about_the_same_image(service, open_page):
    """The image stays until it is removed; the newest answer stands first, the earlier ones stay."""
    page = open_page(service.url)
    choose(page)
    for number in (1, 2, 3):
        service.script(pieces=[f"Answer {number}"])
        finished(ask_image(page, f"Question {number}"))
    expect(page.locator(f"{IMAGE} .answer")).to_have_text(["Answer 3", "Answer 2", "Answer 1"])
    page.click("[data-do=remove]")
    expect(page.locator(".preview")).to_be_hidden()
    page.fill("#image-prompt", "Question 4")
    page.press("#image-prompt", "Control+Enter")
    expect(page.locator(IMAGE)).to_have_count(3)


def test_without_scripts_the_image_stays_for_more_questions(service, open_page):
    """The page sends the image again, and says so."""
    page = open_page(service.url, java_script_enabled=False)
    page.set_input_files("#image-file", RED)
    for number in (1, 2, 3):
        service.script(pieces=[f"Answer {number}"])
        finished(ask_image(page, f"Question {number}"))
        expect(page.locator(f"{IMAGE} .answer")).to_have_text(f"Answer {number}")
        expect(page.locator(f"{IMAGE} .thumbnail")).to_be_visible()
        expect(page.locator("[data-kept]")).to_contain_text("the same picture")


def test_a_script_that_comes_late_takes_the_image_over(service, open_page):
    """If a question was sent before the script loaded, the script takes the image from the page."""
    page = open_page(service.url)
    choose(page)
    page.fill("#image-prompt", "First")
    page.evaluate("document.querySelector('form[data-kind=image]').submit()")  # past the script
    expect(page.locator("#outcome .figures")).to_be_visible()
    expect(page.locator(".preview p")).to_contain_text("64 × 48 pixels")
    expect(page.locator("[data-kept]")).to_have_count(0)
    with page.expect_request("**/api/v1/image/analyze"):
        exchange = ask_image(page, "Second")
    finished(exchange)
    page.click("[data-do=remove]")
    assert page.evaluate("document.getElementById('image-file').required")


@pytest.mark.parametrize(
    ("locale", "number"),
    [("en-US", 0), ("ru-RU", 1)],
)
def test_an_image_over_a_limit_is_refused_before_it_is_sent(service, open_page, locale, number):
    """With the server's limits and messages, in the reader's language; nothing is uploaded."""
    page = open_page(service.url, locale=locale)
    for data, padding, kind, *sentences in REFUSED:
        page.evaluate(CHOOSE, [base64.b64encode(data).decode(), padding, kind])
        expect(page.locator("#image-problem")).to_contain_text(sentences[number])
        expect(page.locator(".preview")).to_be_hidden()
        page.fill("#image-prompt", "x")
        page.press("#image-prompt", "Control+Enter")
        expect(page.locator(IMAGE)).to_have_count(0)


# The start of each file, how many bytes follow it, its type, and the message about it.
REFUSED = [
    (b"", 0, "image/png", "The image is empty.", "Файл с картинкой пуст."),
    (image_bytes(), 16 * 2**20, "image/png", "The image is too large. Maximum size: 16 MiB", "Не больше 16 МиБ"),
    (b"hello", 0, "text/plain", "The file is not a picture that can be read", "не похож на картинку"),
    (b"hello", 0, "image/heic", "Pictures in HEIC cannot be read", "Картинки HEIC здесь не читаются"),
    (image_bytes()[:60], 0, "image/png", "The image is damaged", "Картинка повреждена"),
    (image_bytes(size=(3000, 2)), 0, "image/png", "The image is too narrow", "слишком узкая"),
    (image_bytes(size=(16385, 100)), 0, "image/png", "Maximum side: 16384 pixels", "Сторона не больше 16384"),
    (image_bytes(size=(6400, 6300)), 0, "image/png", "Maximum: 40 megapixels", "Не больше 40 мегапикселей"),
]
CHOOSE = """([data, padding, type]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carrier = new DataTransfer();
  carrier.items.add(new File([bytes, new Uint8Array(padding)], "a", { type }));
  const input = document.getElementById("image-file");
  input.files = carrier.files;
  input.dispatchEvent(new Event("change"));
}"""


def test_an_upload_shows_how_far_it_is(service, open_page):
    """A slow upload shows its percentage, then the answer."""
    page = open_page(service.url)
    noisy = {**RED, "buffer": image_bytes(size=(1200, 1200), kind="BMP")}
    choose(page, noisy)
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    speed = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2_000_000}
    line.send("Network.emulateNetworkConditions", speed)
    exchange = ask_image(page)
    expect(exchange.locator(".wait")).to_contain_text("Sending the picture")
    expect(exchange.locator("progress")).to_be_visible()
    finished(exchange)
    expect(exchange.locator("progress")).to_be_hidden()


def test_a_phone_offers_its_camera(service, open_page):
    """Only on touch screens; a photo is checked like any other image."""
    assert open_page(service.url).locator("[data-do=photograph]").is_hidden()
    phone = open_page(service.url, has_touch=True, is_mobile=True, viewport={"width": 360, "height": 740})
    with phone.expect_file_chooser() as chooser:
        phone.click("[data-do=photograph]")
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(RED)
    expect(phone.locator(".preview p")).to_contain_text("64 × 48 pixels")
