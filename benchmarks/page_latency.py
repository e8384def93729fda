"""Measure how long a token takes from its arrival at the server to the screen, on a real Gunicorn and Chromium.

    python -m benchmarks.page_latency [--tokens N] [--chromium PATH] [--results FOLDER]

The models of `benchmarks.harness.page_app` emit time stamps as the engine emits tokens, one every 40 ms. The service's
own page streams them, renders their Markdown and shows them. A script on the page waits for each change of the answer
and for the frame that paints it, and reads the clock. Server and browser run on one machine and share its clock. The
engine may join tokens within its stream interval (20 ms by default); this is not included. On a busy machine the times
are mostly those of waiting for a core; the processor time that the page's main thread takes for a token is told beside
them, which does not depend on what else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import CDPSession, Page, sync_playwright

from benchmarks.harness import record
from benchmarks.harness.command_line import browser_options
from benchmarks.harness.servers import GUNICORN, Server, running
from benchmarks.harness.targets import Verdict, exit_status, judged

TARGET_MS = 20.0
PACKAGES = ("flask", "gunicorn", "playwright")
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking")
# All tasks of the main thread, and parts of them, by Chromium's names.
TAKEN = {"all": "TaskDuration", "script": "ScriptDuration", "layout": "LayoutDuration", "style": "RecalcStyleDuration"}
# A frame runs its callbacks and then paints; a message posted from a callback is handled after the paint.
WATCH = """() => {
  window.seen = [];
  const { port1, port2 } = new MessageChannel();
  let shown = 0;
  port1.onmessage = ({ data }) => {
    const now = performance.timeOrigin + performance.now();
    for (const stamp of data) window.seen.push([Number(stamp), now]);
  };
  new MutationObserver(() => requestAnimationFrame(() => {
    const words = document.querySelector("[data-exchanges=text] .answer")?.textContent.match(/\\d+\\.\\d\\d/g) ?? [];
    port2.postMessage(words.slice(shown));
    shown = words.length;
  })).observe(document.querySelector("[data-exchanges=text]"), { subtree: true, childList: true, characterData: true });
}"""

LAST_FRAME = "() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 100)))"


def main() -> int:
    """Measure, print and write the results; return the exit status, 1 if the target is missed."""
    options = _options()
    facts = record.facts(PACKAGES)
    env = {"ENV_FILE": os.devnull, "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    server = Server("page", (*GUNICORN, "benchmarks.harness.page_app:app"), "/api/health/ready", env=env)
    with tempfile.TemporaryDirectory() as folder, running(server, Path(folder) / "log") as address:
        seen, processor = _watched(address, options.tokens, options.chromium)
    figures = summary([shown - arrived for arrived, shown in seen])
    table = record.table(("milliseconds from arrival to paint", "value"), [(k, f"{v:.1f}") for k, v in figures.items()])
    taken = record.table(("processor time of a token, ms", "value"), [(k, f"{v:.2f}") for k, v in processor.items()])
    print(f"{table}\n\n{taken}\n\n{verdict(figures)}")
    milliseconds = [round(b - a, 2) for a, b in seen]
    written = {"figures": figures, "processor_ms": processor, "milliseconds": milliseconds}
    title, tables = "From a token's arrival to the screen", [table, taken, str(verdict(figures))]
    print(record.write("page_latency", facts, written, title, tables, options.results))
    return exit_status([verdict(figures).word])


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return the count, the median, the 95th percentile and the maximum."""
    ordered = sorted(milliseconds)
    return {
        "tokens": float(len(ordered)),
        "median": statistics.median(ordered),
        "p95": ordered[round(0.95 * (len(ordered) - 1))],
        "most": ordered[-1],
    }


def verdict(figures: dict[str, float]) -> Verdict:
    """Return the verdict on the median."""
    return judged(f"a median under {TARGET_MS:.0f} ms", figures["median"] < TARGET_MS, f"{figures['median']:.1f} ms")


def _watched(address: str, tokens: int, chromium: str) -> tuple[list[tuple[float, float]], dict[str, float]]:
    """Return for each token its times of arrival and of painting, in milliseconds since the epoch, and the processor
    time of the page's main thread, in milliseconds a token.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.goto(address, wait_until="networkidle")
        line = page.context.new_cdp_session(page)
        line.send("Performance.enable", {"timeDomain": "threadTicks"})
        before = _processor(line)
        _ask(page, tokens)
        taken = {name: 1000 * (end - before[name]) / tokens for name, end in _processor(line).items()}
        seen: list[tuple[float, float]] = page.evaluate("window.seen")
        browser.close()
    assert len(seen) == tokens, f"{len(seen)} of {tokens} tokens were seen"
    return [(arrived, shown) for arrived, shown in seen], taken


def _processor(line: CDPSession) -> dict[str, float]:
    """Return what the main thread of a page has taken so far, in seconds."""
    found = {metric["name"]: metric["value"] for metric in line.send("Performance.getMetrics")["metrics"]}
    return {shown: found[name] for shown, name in TAKEN.items()}


def _ask(page: Page, tokens: int) -> None:
    page.evaluate(WATCH)
    page.click("form[data-kind=text] summary")
    page.fill("#text-length", str(tokens))
    page.fill("#text-prompt", "Hello")
    page.press("#text-prompt", "Control+Enter")
    page.locator("[data-exchanges=text] .about").wait_for(timeout=1000 * (10 + tokens))
    page.evaluate(LAST_FRAME)


def _options() -> argparse.Namespace:
    parser = browser_options(__doc__)
    parser.add_argument("--tokens", type=int, default=500, help="number of tokens to measure (default: 500)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
