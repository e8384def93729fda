"""The circuit breaker of a server elsewhere, as an operator sees it on the status page."""

import json
import os
import urllib.error
import urllib.request

import pytest

from tests.e2e.browser.conftest import UNLIMITED
from tests.e2e.demo_service import ready
from tests.e2e.gunicorn_process import GunicornProcess, until
from tests.fake_upstream import fake_upstream

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

TABLE = "[aria-labelledby=upstreams-heading]"
UPSTREAM = """[[upstream]]
name = "near"
urls = ["{url}"]
model = "m"
retries = 0
breaker_failures = 1
breaker_seconds = 2
probe_seconds = 1
"""


def ask(process):
    """Send a request, whatever comes of it."""
    body = {"model": "avibe", "messages": [{"role": "user", "content": "Hello"}]}
    url, head = f"http://127.0.0.1:{process.port}/v1/chat/completions", {"Content-Type": "application/json"}
    try:
        urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head)).close()
    except urllib.error.HTTPError as error:
        error.close()


def test_a_breaker_is_seen_open_half_open_and_closed(open_page, tmp_path):
    """As the server fails, is there again, and has answered a request. SCREENSHOTS: a folder for them, if it is set."""
    file = tmp_path / "upstreams.toml"
    with fake_upstream() as server:
        file.write_text(UPSTREAM.format(url=server.url))
        settings = UNLIMITED | {"VIBE_UPSTREAM": "near", "VISION_UPSTREAM": "near", "UPSTREAMS_FILE": str(file)}
        with GunicornProcess(tmp_path, app="app_production:app", **settings) as process:
            until(lambda: ready(process), patience=120)
            page = open_page(f"http://127.0.0.1:{process.port}/status", viewport={"width": 1200, "height": 900})

            def shows(state):
                page.reload()
                row = page.locator(f"{TABLE} tbody tr", has_text="avibe")
                return row.locator("td").nth(1).inner_text() == state

            def seen(state):
                until(lambda: shows(state))
                if folder := os.environ.get("SCREENSHOTS"):
                    page.screenshot(path=f"{folder}/breaker-{state.split()[0]}.png", full_page=True)

            seen("closed")
            server.script.always = "500"
            ask(process)
            seen("open")
            server.script.always = ""
            seen("half open")
            ask(process)
            seen("closed")
