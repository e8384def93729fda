"""The image form in a real browser: every way to choose an image, and what is refused before it is sent."""

import base64
import re

import pytest
from playwright.sync_api import expect

from tests.e2e.browser.steps import HAND_OVER, IMAGE, NOISY, RED, SLOW, ask_image, choose, finished, upload_at
from tests.fakes import image_bytes

SMALL = (32, 32)
pytestmark = pytest.mark.needs("chromium")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_an_image_can_be_pasted_and_dropped(service, open_page, kind):
    """The image is shown with its name, size and pixels, and sent with the question."""
    page = open_page(service.url)
    page.evaluate(HAND_OVER, [kind, base64.b64encode(image_bytes()).decode(), "bike.png", "image/png"])
    expect(page.locator(".preview p")).to_have_text("bike.png: 1 KiB, 64 × 48 pixels")
    service.script(pieces=["A red picture."])
    finished(ask_image(page))
    expect(page.locator(f"{IMAGE} .answer")).to_have_text("A red picture.")
    expect(page.locator(f"{IMAGE} .thumbnail")).to_be_visible()


def test_text_that_comes_with_a_picture_of_itself_is_pasted_as_text(service, open_page):
    """As office programs copy it, into a field; outside of fields, the picture is taken."""
    page = open_page(service.url)
    paste = """([selector, data]) => {
      const carrier = new DataTransfer();
      carrier.setData("text/plain", "A table");
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      carrier.items.add(new File([bytes], "image.png", { type: "image/png" }));
      const event = new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: carrier });
      return document.querySelector(selector).dispatchEvent(event);
    }"""
    picture = base64.b64encode(image_bytes()).decode()
    assert page.evaluate(paste, ["#text-prompt", picture])  # left to the browser, which pastes the text
    assert not page.evaluate(paste, ["#main", picture])
    expect(page.locator(".preview")).to_have_count(1)


def test_pictures_that_come_at_once_are_no_more_than_may_be_sent(service, open_page):
    """Dropped one after the other while the first are still prepared."""
    page = open_page(service.url)
    drop = [["drop", base64.b64encode(image_bytes()).decode(), "bike.png", "image/png"]] * 6
    page.evaluate(f"(all) => all.forEach({HAND_OVER})", drop)
    expect(page.locator("#image-problem")).to_be_visible()
    expect(page.locator(".preview")).to_have_count(4)


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
    page = open_page(service.url, locale="ru-RU")
    choose(page)
    page.fill("#image-prompt", "First")
    page.evaluate("document.querySelector('form[data-kind=image]').submit()")  # past the script
    expect(page.locator("#outcome .about")).to_be_visible()
    expect(page.locator(".preview p")).to_have_text("Картинка: 1 КиБ, 64 × 48 пикселей")  # its name is lost
    expect(page.locator("[data-kept]")).to_have_count(0)
    with page.expect_request("**/api/v1/image/analyze"):
        exchange = ask_image(page, "Second")
    finished(exchange)
    expect(exchange.locator(".thumbnail")).to_have_attribute("alt", "Картинка")
    page.click("[data-do=remove]")
    assert page.evaluate("document.getElementById('image-file').required")


def test_up_to_four_pictures_belong_to_one_question(service, open_page):
    """Chosen together, pasted and dropped; each can be removed, and a fifth is refused."""
    page = open_page(service.url)
    photos = [{**RED, "name": f"{colour}.png", "buffer": image_bytes(colour)} for colour in ("red", "green")]
    page.set_input_files("#image-file", photos)
    expect(page.locator(".preview p")).to_contain_text(["red.png", "green.png"])
    for kind, colour in (("paste", "blue"), ("drop", "white"), ("drop", "black")):
        data = base64.b64encode(image_bytes(colour, SMALL if colour == "white" else (64, 48))).decode()
        page.evaluate(HAND_OVER, [kind, data, f"{colour}.png", "image/png"])
    expect(page.locator(".preview p")).to_contain_text(["red", "green", "blue", "white"])
    expect(page.locator("#image-problem")).to_have_text("A request may carry at most 4 images.")
    page.get_by_role("button", name="Remove: green.png").click()
    exchange = ask_image(page)
    finished(exchange)
    expect(exchange.locator(".thumbnail")).to_have_count(3)
    assert service.images() == [[64, 48], [64, 48], [32, 32]]


def test_a_large_photo_is_sent_in_what_the_model_looks_at(service, open_page):
    """And one that is over the limits of the server, in pixels or in bytes; the page says so."""
    page = open_page(service.url)
    page.evaluate(PHOTOGRAPH, [3000, 2000])
    expect(page.locator(".preview p")).to_contain_text(re.compile(r"photo.jpg: [\d.]+\sMiB, sent as [\d.]+\sKiB"))
    page.evaluate(CHOOSE, [base64.b64encode(image_bytes(size=(6400, 6300))).decode(), 17 * 2**20, "image/png"])
    expect(page.locator(".preview p").nth(1)).to_contain_text("17.1 MiB, sent as")
    finished(ask_image(page))
    assert service.images() == [[1225, 816], [1008, 992]]


# A JPEG as a camera makes it, of noise, so that it has some megabytes.
PHOTOGRAPH = """async ([width, height]) => {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let at = 0; at < pixels.data.length; at++) pixels.data[at] = at % 4 === 3 ? 255 : (at * 7919) % 251;
  context.putImageData(pixels, 0, 0);
  const carrier = new DataTransfer();
  const type = "image/jpeg";
  carrier.items.add(new File([await canvas.convertToBlob({ type, quality: 0.95 })], "photo.jpg", { type }));
  const input = document.getElementById("image-file");
  input.files = carrier.files;
  input.dispatchEvent(new Event("change"));
}"""


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
    choose(page, NOISY)
    line = page.context.new_cdp_session(page)
    line.send("Network.enable")
    upload_at(line, SLOW)
    exchange = ask_image(page)
    expect(exchange.locator(".wait")).to_contain_text("Sending the picture")
    expect(exchange.locator("progress")).to_be_visible()
    upload_at(line, -1)
    finished(exchange)
    expect(exchange.locator("progress")).to_be_hidden()


# Chooses, pastes or drops files, and presses the button twice before any is prepared; "preview": when the first one is.
HURRY = """([way, files]) => {
  const send = () => document.querySelector("form[data-kind=image] [data-do=send]").click();
  const carrier = new DataTransfer();
  for (const [data, name] of files) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    carrier.items.add(new File([bytes], name, { type: "image/jpeg" }));
  }
  const input = document.getElementById("image-file");
  if (way === "paste") document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: carrier }));
  else if (way === "drop") document.dispatchEvent(new DragEvent("drop", { dataTransfer: carrier }));
  else {
    input.files = carrier.files;
    input.dispatchEvent(new Event("change"));
  }
  const previews = document.querySelector(".previews");
  const watch = new MutationObserver(() => { watch.disconnect(); send(); });
  if (way === "preview") watch.observe(previews, { childList: true });
  else for (const _ of [1, 2]) send();
  return document.querySelector("[data-preparing]")?.hidden === false;
}"""


def photos(count):
    """Return large photos as a page takes them."""
    data = base64.b64encode(image_bytes(size=(4000, 3000), kind="JPEG")).decode()
    return [[data, f"{number}.jpg"] for number in range(count)]


@pytest.mark.parametrize("way", ["choose", "paste", "drop", "preview"])
def test_a_question_waits_for_its_pictures(service, open_page, way):
    """Each large photo belongs to it, however soon it is sent; once, with the text that stands there by then."""
    page = open_page(service.url)
    page.fill("#image-prompt", "Compare them")
    assert page.evaluate(HURRY, [way, photos(4)]) is (way != "preview")
    exchange = page.locator(IMAGE)
    finished(exchange)
    expect(exchange.locator(".thumbnail")).to_have_count(4)
    assert len(service.images()) == 4
    expect(page.locator("[data-preparing]")).to_be_hidden()


def test_a_question_does_not_leave_out_what_is_refused_meanwhile(service, open_page):
    """The page says what is wrong with it, and sends what is left when it is asked again."""
    page = open_page(service.url)
    page.fill("#image-prompt", "Compare them")
    page.evaluate(HURRY, ["choose", [*photos(1), [base64.b64encode(b"x").decode(), "two.jpg"]]])
    expect(page.locator("#image-problem")).to_contain_text("two.jpg: The image is damaged")
    expect(page.locator("[data-preparing]")).to_be_hidden()
    expect(page.locator(IMAGE)).to_have_count(0)
    page.click("form[data-kind=image] [data-do=send]")
    finished(page.locator(IMAGE))
    assert len(service.images()) == 1


def test_a_phone_offers_its_camera(service, open_page):
    """Only on touch screens; a photo is checked like any other image."""
    assert open_page(service.url).locator("[data-do=photograph]").is_hidden()
    phone = open_page(service.url, has_touch=True, is_mobile=True, viewport={"width": 360, "height": 740})
    with phone.expect_file_chooser() as chooser:
        phone.click("[data-do=photograph]")
    assert chooser.value.element.get_attribute("capture") == "environment"
    chooser.value.set_files(RED)
    expect(phone.locator(".preview p")).to_contain_text("64 × 48 pixels")


def test_each_file_that_cannot_be_sent_is_named(service, open_page):
    """Of several that are chosen at once, each with its own reason; the good one stays."""
    page = open_page(service.url)
    heic = {"name": "one.heic", "mimeType": "image/heic", "buffer": b"x"}
    cut = {"name": "two.png", "mimeType": "image/png", "buffer": image_bytes()[:40]}
    page.set_input_files("#image-file", [heic, cut, RED])
    expect(page.locator(".preview")).to_have_count(1)
    problem = page.locator("#image-problem")
    expect(problem).to_have_text(re.compile(r"one\.heic: Pictures in HEIC.*two\.png: The image is damaged", re.DOTALL))
    choose(page)
    expect(problem).to_be_hidden()


def test_what_the_browser_refuses_is_said_in_the_language_of_the_page(service, open_page):
    """Russian in an English browser: no picture, a length and a temperature out of range; then it can be sent."""
    page = open_page(service.url)
    page.get_by_role("button", name="Русский").click()
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    said = "(id) => document.getElementById(id).validationMessage"
    page.fill("#image-prompt", "Что это?")
    send = page.locator("form[data-kind=image] [data-do=send]")
    send.click()
    assert page.evaluate(said, "image-file") == "Выберите картинку."
    choose(page)
    page.click("form[data-kind=image] details summary")
    page.fill("#image-length", "0")
    page.fill("#image-temperature", "3")
    send.click()
    assert page.evaluate(said, "image-length") == "Целое число от 1 до 2\u00a0048."
    assert page.evaluate(said, "image-temperature") == "Число от 0 до 2."
    page.fill("#image-length", "5")
    page.fill("#image-temperature", "")
    send.click()
    finished(page.locator(IMAGE).first)
