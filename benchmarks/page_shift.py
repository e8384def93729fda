"""Measure how far the page moves under its reader, by flow, on a real Gunicorn and Chromium.

    python -m benchmarks.page_shift [--chromium PATH] [--results FOLDER]

The models of `benchmarks.harness.prose_app` let each question wait and then write Markdown a word at a time. A script
does what a visitor does, at the widths of a phone and of a desk, and an observer on the page collects each shift. The
score of a flow is that of web.dev: the largest sum of shifts that follow each other within a second, over at most five.
Shifts within half a second of a key or a click do not count there; their sum is told beside it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from math import inf
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

from benchmarks.harness import record
from benchmarks.harness.command_line import browser_options
from benchmarks.harness.servers import GUNICORN, Server, running
from benchmarks.harness.targets import Verdict, exit_status, judged
from benchmarks.page_latency import FLAGS, PACKAGES
from benchmarks.page_tasks import IMAGE, PAST, TEXT, WAIT, WIDTHS, answered, photo

LIMIT = 0.05
GAP, LONGEST = 1000.0, 5000.0  # milliseconds: between the shifts of a window, and of a whole one
QUIET = 700  # milliseconds after which a flow has come to rest
PROMPT = "Write a listing for a red bicycle."
TICKS = 3  # of the operator's page
WATCH = """
window.shifts = [];
const named = ({ node }) => {
  const one = node?.nodeType === 1 ? node : node?.parentElement;
  return one ? one.tagName.toLowerCase() + [...one.classList].map((name) => `.${name}`).join("") : "";
};
new PerformanceObserver((list) => {
  for (const { value, startTime: at, hadRecentInput: caused, sources } of list.getEntries()) {
    window.shifts.push({ value, at, caused, moved: sources.map(named) });
  }
}).observe({ type: "layout-shift", buffered: true });
"""

Shift = Mapping[str, object]


def score(shifts: Iterable[Shift]) -> float:
    """Return the largest sum of a window of shifts, those without a recent key or click (web.dev/articles/cls)."""
    best, total, first, last = 0.0, 0.0, -inf, -inf
    for shift in shifts:
        at = float(str(shift["at"]))
        if shift["caused"]:
            continue
        if at - last > GAP or at - first > LONGEST:
            total, first = 0.0, at
        total, last = total + float(str(shift["value"])), at
        best = max(best, total)
    return best


def first_look(page: Page, address: str) -> None:
    """The page is opened."""
    page.goto(address, wait_until="networkidle")


def ask(page: Page, address: str) -> None:
    """A question waits, its answer is written."""
    page.fill("#text-prompt", PROMPT)
    page.press("#text-prompt", "Control+Enter")
    answered(page.locator(TEXT).last)


def follow_up(page: Page, address: str) -> None:
    """The answer is made shorter."""
    press(page, f"{TEXT} .chips button")
    answered(page.locator(TEXT).nth(1))


def again(page: Page, address: str) -> None:
    """Another answer takes the place of the last one, which is shown again."""
    last = page.locator(TEXT).last
    last.locator("[data-do=again]").click()
    expect(last).to_have_attribute("aria-busy", "true")
    answered(last)
    last.locator("[data-do=earlier]").click()


def photos(page: Page, address: str) -> None:
    """Four photos are chosen, and asked about."""
    page.locator("#image-file").scroll_into_view_if_needed()
    page.set_input_files("#image-file", [photo(colour) for colour in ("red", "green", "blue", "black")])
    expect(page.locator(".preview")).to_have_count(4, timeout=WAIT)
    page.fill("#image-prompt", "What is in the pictures?")
    page.press("#image-prompt", "Control+Enter")
    answered(page.locator(IMAGE).first)


def history(page: Page, address: str) -> None:
    """The page is loaded again, and a conversation of before is opened."""
    page.reload(wait_until="networkidle")
    past = page.locator(PAST).first
    past.locator("summary").first.click()
    expect(past.locator(".exchange").first).to_be_visible(timeout=WAIT)


def away(page: Page, address: str) -> None:
    """The connection is lost while the top of the page is read, and comes back."""
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(QUIET)
    page.context.set_offline(True)
    expect(page.locator("#away")).to_be_visible(timeout=WAIT)
    page.context.set_offline(False)
    expect(page.locator("#away")).to_be_hidden(timeout=WAIT)


def status(page: Page, address: str) -> None:
    """The operator's page, opened while a question is answered, and left to tick."""
    other = page.context.new_page()
    other.goto(address)
    page.goto(f"{address}/status", wait_until="networkidle")
    ask(other, address)
    for _ in range(TICKS):
        with page.expect_response("**/status/samples*", timeout=WAIT):
            pass
    other.close()


FLOWS: dict[str, Callable[[Page, str], None]] = {
    "first look": first_look,
    "ask, wait, stream": ask,
    "follow-up": follow_up,
    "again, and back": again,
    "photos": photos,
    "reload, history": history,
    "connection lost": away,
    "/status ticking": status,
}


def press(page: Page, selector: str) -> None:
    button: Locator = page.locator(f"{selector}:visible").first
    button.click()


def measured(address: str, chromium: str) -> list[dict[str, object]]:
    """Go through all flows at both widths."""
    rows: list[dict[str, object]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for width, height in WIDTHS.items():
            touch = width < height
            viewport = {"width": width, "height": height}
            context = browser.new_context(viewport=viewport, has_touch=touch, is_mobile=touch, locale="ru-RU")  # type: ignore[arg-type]
            page = context.new_page()
            page.set_default_timeout(WAIT)
            page.add_init_script(WATCH)
            for name, flow in FLOWS.items():
                flow(page, address)
                page.wait_for_timeout(QUIET)
                shifts: list[Shift] = page.evaluate("window.shifts.splice(0)")
                rows.append(row(width, name, shifts))
            context.close()
        browser.close()
    return rows


def row(width: int, name: str, shifts: list[Shift]) -> dict[str, object]:
    """Return what a flow moved, and the elements of its largest shift that counts."""
    counted = [shift for shift in shifts if not shift["caused"]]
    largest = max(counted, key=lambda shift: float(str(shift["value"])), default=None)
    caused = sum(float(str(shift["value"])) for shift in shifts if shift["caused"])
    moved = largest["moved"] if largest else []
    return {"width": width, "flow": name, "cls": round(score(shifts), 4), "caused": round(caused, 4), "moved": moved}


def verdict(rows: list[dict[str, object]]) -> Verdict:
    """Return the verdict on the flow that moves most."""
    most = max(float(str(one["cls"])) for one in rows)
    return judged(f"each under {LIMIT}", most < LIMIT, f"at most {most:.3f}")


def main() -> int:
    """Measure, print and write the results; return the exit status, 1 if the target is missed."""
    options = browser_options(__doc__).parse_args()
    facts = record.facts(PACKAGES)
    env = {"ENV_FILE": os.devnull, "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    server = Server("page", (*GUNICORN, "benchmarks.harness.prose_app:app"), "/api/health/ready", env=env)
    with tempfile.TemporaryDirectory() as folder, running(server, Path(folder) / "log") as address:
        rows = measured(address, options.chromium)
    header = ("width", "flow", "layout shift", "after a key or a click")
    cells = [tuple(str(one[name]) for name in ("width", "flow", "cls", "caused")) for one in rows]
    tables = [record.table(header, cells), str(verdict(rows))]
    print(f"{tables[0]}\n\n{tables[1]}")
    print(
        record.write(
            "page_shift", facts, {"flows": rows}, "Layout shift of each flow of the page", tables, options.results
        )
    )
    return exit_status([verdict(rows).word])


if __name__ == "__main__":
    sys.exit(main())
