"""Time what a visitor does for three tasks on the page: by keyboard alone, in Russian, at two widths.

    python -m benchmarks.page_tasks [--chromium PATH] [--results FOLDER]

A real Gunicorn with the demo models answers; a script presses keys as a visitor would and counts them. Actions take
the times of the keystroke-level model (Card, Moran, Newell 1983): 0.28 s a key (an average typist), 1.35 s for each
decision (what to write, what to look for, whether an answer is good). Hands stay on the keyboard. What the machine
takes is told apart, as it was measured. Each stop of the Tab key must be something that can be seen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import FilePayload, Locator, Page, expect, sync_playwright

from benchmarks.harness import record
from benchmarks.harness.command_line import browser_options
from benchmarks.harness.servers import demo, running
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.page_latency import FLAGS, PACKAGES

KEY, DECISION = 0.28, 1.35  # seconds
LIMIT = 60.0  # seconds of actions
DIALOG = 5  # keys in the dialog of the system that chooses two files: to the first, to the next with Shift, Enter
FARTHEST = 60  # presses of Tab to anything of a page
WIDTHS = {390: 844, 1440: 900}  # heights by widths, in pixels
WAIT = 120_000  # milliseconds
TEXT, IMAGE, PAST = "[data-exchanges=text] .exchange", "[data-exchanges=image] .exchange", "[data-past] > details"
# Radio buttons are drawn by their labels.
SEEN = """() => {
  const shown = document.activeElement.closest("label") ?? document.activeElement;
  const { width, height } = shown.getBoundingClientRect();
  const seen = shown.checkVisibility({ visibilityProperty: true }) && Math.min(width, height) > 1;
  return seen || shown === document.body;
}"""


@dataclass
class Visitor:
    """Somebody at a keyboard. keys, decisions: so far; waited: seconds for the machine."""

    page: Page
    keys: int = 0
    decisions: int = 0
    waited: float = 0.0
    unseen: list[str] = field(default_factory=list)

    def decide(self) -> None:
        """Think of what is next."""
        self.decisions += 1

    def press(self, *keys: str) -> None:
        """Press keys, or chords."""
        for key in keys:
            self.keys += key.count("+") + 1
            self.page.keyboard.press(key)

    def write(self, text: str) -> None:
        """Think of a text and type it."""
        self.decide()
        self.keys += len(text)
        self.page.keyboard.insert_text(text)

    def go(self, target: Locator, key: str = "Tab") -> None:
        """Move the focus to an element, as far as that is."""
        self.decide()
        for _ in range(FARTHEST):
            if target.evaluate("(one) => one === document.activeElement"):
                return
            self.press(key)
            if not self.page.evaluate(SEEN):
                self.unseen.append(self.page.evaluate("document.activeElement.outerHTML.slice(0, 80)"))
        raise AssertionError(f"the keyboard does not reach {target}")

    def wait(self, done: Callable[[], object]) -> None:
        """Wait for the machine, and look at what it made."""
        began = time.monotonic()
        done()
        self.waited += time.monotonic() - began
        self.decide()

    @property
    def seconds(self) -> float:
        """The time of the actions."""
        return KEY * self.keys + DECISION * self.decisions


def shorter_twice(visitor: Visitor) -> None:
    """A listing by its fields, made shorter twice, and pasted elsewhere."""
    page = visitor.page
    visitor.press("Tab", "Enter")  # past the head of the page
    visitor.go(page.locator("form[data-kind=text] [value=free]"))
    visitor.press("ArrowRight")
    for name, text in (("item", "Письменный стол"), ("condition", "хорошее, одна царапина"), ("price", "4500")):
        visitor.go(page.locator(f"#text-{name}"))
        visitor.write(text)
    visitor.press("Control+Enter")
    for number in range(2):
        exchange = page.locator(TEXT).nth(number)
        visitor.wait(lambda exchange=exchange: answered(exchange))  # type: ignore[misc]
        visitor.go(exchange.locator(".chips button").first)
        visitor.press("Enter")
    paste(visitor, page.locator(TEXT).nth(2))


def from_two_photos(visitor: Visitor) -> None:
    """What two photos show becomes a listing."""
    page = visitor.page
    visitor.press("Tab", "Enter")
    visitor.go(page.locator("#image-file"))
    with page.expect_file_chooser() as chooser:
        visitor.press("Space")
    visitor.decide()
    visitor.keys += DIALOG
    chooser.value.set_files([photo(colour) for colour in ("red", "green")])
    visitor.wait(lambda: expect(page.locator(".preview")).to_have_count(2, timeout=WAIT))
    visitor.go(page.locator("form[data-kind=image] [value=free]"))
    visitor.press("ArrowRight", "ArrowRight")  # to the condition and the defects
    visitor.press("Control+Enter")
    visitor.wait(lambda: answered(page.locator(IMAGE)))
    visitor.go(page.locator(f"{IMAGE} [data-do=listing]"))
    visitor.press("Enter")
    visitor.write("Велосипед")
    visitor.press("Tab", "Tab")
    visitor.write("12000")
    visitor.press("Control+Enter")
    paste(visitor, page.locator(TEXT).first)


def found_again(visitor: Visitor) -> None:
    """The listing of before, after a reload."""
    visitor.press("F5")
    visitor.page.reload()  # what the key does, which Chromium has no menu for without a window
    past = visitor.page.locator(PAST).first
    visitor.wait(lambda: expect(past).to_be_visible(timeout=WAIT))
    visitor.go(past.locator("summary").first)
    visitor.press("Enter")
    paste(visitor, past.locator(".exchange").last)


TASKS = {"shorter twice, pasted": shorter_twice, "from two photos, pasted": from_two_photos, "found again": found_again}


def answered(exchange: Locator) -> None:
    expect(exchange.locator(".about")).to_be_visible(timeout=WAIT)


def paste(visitor: Visitor, exchange: Locator) -> None:
    """Copy an answer and paste it into a field of another page."""
    page = visitor.page
    visitor.wait(lambda: answered(exchange))
    visitor.go(exchange.locator("[data-do=copy]"))
    visitor.press("Enter")
    expect(exchange.locator("[data-do=copy]")).to_be_disabled(timeout=WAIT)
    read = exchange.locator(".answer").inner_text()
    other = page.context.new_page()
    other.set_content("<textarea autofocus></textarea>")
    other.locator("textarea").focus()
    visitor.press("Control+Tab")
    visitor.keys += 2
    other.keyboard.press("Control+v")
    pasted = other.locator("textarea").input_value()
    other.close()
    page.bring_to_front()
    assert pasted.split() == read.split(), f"{pasted!r} was pasted, not {read!r}"


def photo(colour: str) -> FilePayload:
    """Return a photo as a phone makes it, as large."""
    data = BytesIO()
    Image.new("RGB", (4000, 3000), colour).save(data, "JPEG")
    return FilePayload(name=f"{colour}.jpg", mimeType="image/jpeg", buffer=data.getvalue())


def measured(address: str, chromium: str) -> list[dict[str, object]]:
    """Do all tasks at both widths."""
    rows: list[dict[str, object]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for width, height in WIDTHS.items():
            context = browser.new_context(viewport={"width": width, "height": height}, locale="ru-RU")
            context.grant_permissions(["clipboard-read", "clipboard-write"])
            page = context.new_page()
            page.set_default_timeout(WAIT)
            for name, task in TASKS.items():
                page.goto(address)
                visitor = Visitor(page)
                task(visitor)
                rows.append(row(width, name, visitor))
            context.close()
        browser.close()
    return rows


def row(width: int, name: str, visitor: Visitor) -> dict[str, object]:
    """Return what a task took. Raises AssertionError where Tab stopped at something that cannot be seen."""
    assert not visitor.unseen, visitor.unseen
    return {
        "width": width,
        "task": name,
        "keys": visitor.keys,
        "decisions": visitor.decisions,
        "seconds": round(visitor.seconds, 1),
        "waited": round(visitor.waited, 1),
    }


def verdict(rows: list[dict[str, object]]) -> Verdict:
    """Return the verdict on the longest task."""
    most = max(float(str(one["seconds"])) for one in rows)
    return judged(f"each under {LIMIT:.0f} s of actions", most < LIMIT, f"at most {most:.1f} s")


def main() -> int:
    """Measure, print and write the results; return the exit status, 1 if the target is missed."""
    options = browser_options(__doc__).parse_args()
    facts = record.facts(PACKAGES)
    with tempfile.TemporaryDirectory() as folder:
        with running(demo("page", "app_production:app"), Path(folder) / "log") as address:
            rows = measured(address, options.chromium)
    header = ("width", "task", "keys", "decisions", "actions, s", "waited for the machine, s")
    table = record.table(header, [tuple(str(value) for value in one.values()) for one in rows])
    title, tables = "Three tasks on the page, by keyboard", [table, str(verdict(rows))]
    print(f"{table}\n\n{verdict(rows)}")
    print(record.write("page_tasks", facts, {"tasks": rows}, title, tables, options.results))
    return exit_status([verdict(rows).word])


if __name__ == "__main__":
    sys.exit(main())
