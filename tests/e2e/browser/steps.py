"""The actions of a visitor on the page, and the locators of the answers."""

import os

from playwright.sync_api import expect

from tests.fakes import image_bytes

TEXT, IMAGE = "[data-exchanges=text] .exchange", "[data-exchanges=image] .exchange"
PAST = "[data-past] > details"  # the conversations of the history
RED = {"name": "red.png", "mimeType": "image/png", "buffer": image_bytes()}
NOISY = {**RED, "buffer": image_bytes(size=(900, 900), kind="BMP")}  # 2.3 MiB, two minutes at SLOW
SLOW = 20_000  # bytes per second, above the slowest rate that the service takes

# Hands a file to the page the way a browser does when a user drops or pastes it. The file comes as base64.
HAND_OVER = """([kind, data, name, type]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carrier = new DataTransfer();
  carrier.items.add(new File([bytes], name, { type }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: carrier })
    : new DragEvent(kind, { ...options, dataTransfer: carrier });
  document.querySelector("[data-drop]").dispatchEvent(event);
}"""


def ask_text(page, prompt="Hello"):
    """Write a prompt and send it with the keyboard; return the newest exchange."""
    page.fill("#text-prompt", prompt)
    page.press("#text-prompt", "Control+Enter")
    return page.locator(TEXT).first


def ask_image(page, prompt="What is in the picture?"):
    """Write a question and send it with the button; return the newest exchange."""
    page.fill("#image-prompt", prompt)
    page.click("form[data-kind=image] [data-do=send]")
    return page.locator(IMAGE).first


def choose(page, file=RED):
    """Choose an image and wait for its preview."""
    page.set_input_files("#image-file", file)
    expect(page.locator(".preview").last).to_be_visible()


def upload_at(line, speed):
    """Limit what the page sends on a DevTools session to so many bytes per second; -1: no more."""
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": speed}
    line.send("Network.emulateNetworkConditions", limits)


def finished(exchange):
    """Wait until an exchange has its figures, which stand behind "Details"; return them."""
    expect(exchange.locator(".about")).to_be_visible()
    cells = exchange.locator("[data-figure]")
    return {cell.get_attribute("data-figure"): cell.text_content() for cell in cells.all()}


def unfold(page, number=0):
    """Open a conversation of the history; return its exchanges."""
    entry = page.locator(PAST).nth(number)
    entry.locator("> summary").click()
    expect(entry.locator(".exchange").first).to_be_visible()
    return entry.locator(".exchange")


def repeat(service, exchange, text):
    """Ask again; wait for the answer with this text."""
    service.script(pieces=[text])
    exchange.locator("[data-do=again]").click()
    expect(exchange.locator(".answer")).to_have_text(text)
    finished(exchange)


def go_on(service, text):
    """Have the answer that is held open go on and end."""
    draft = service.process.folder / "release.draft"
    draft.write_text(text)
    draft.replace(service.process.folder / "release")


def stored_stream(page):
    """Return the id of the stream that is kept of the newest question, "" for none."""
    return page.evaluate("""async () => {
      const { conversations } = await import(document.querySelector("[href*='/history.js']").href);
      return (await conversations())[0]?.at(-1).stream ?? "";
    }""")


def signalled(service, number):
    """Send a signal to all processes of a service."""
    master = service.process.process.pid
    for pid in [*workers(master), master]:
        os.kill(pid, number)


def workers(master):
    """Return the processes that a master has started."""
    with open(f"/proc/{master}/task/{master}/children") as children:
        return [int(pid) for pid in children.read().split()]
