"""A Chromium per module, one scripted service for all of them, and a page per test.

A test fails if the browser reports a script error or a violation of the Content-Security-Policy.
"""

import json

import pytest

from tests.e2e.gunicorn_process import PATIENCE, GunicornProcess, until
from tests.system_programs import program

# Nothing but the page itself may use the network.
FLAGS = (
    "--no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
APP = "tests.e2e.page_app:app"
KEY = "a-key-of-an-operator"
UNLIMITED = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}


class Service:
    """A Gunicorn with the scripted application."""

    def __init__(self, process):
        self.process = process
        self.url = f"http://127.0.0.1:{process.port}"

    def script(self, **values):
        """Set how the models answer from now on; by default immediately and successfully."""
        draft = self.process.folder / "script.draft"
        draft.write_text(json.dumps(values))
        draft.replace(self.process.folder / "script.json")

    def images(self):
        """Return the sizes of the images of the last question."""
        return json.loads((self.process.folder / "images").read_text())

    def aborted(self):
        """Return the ids of the aborted requests."""
        diary = self.process.folder / "aborted"
        return [line.split()[0] for line in diary.read_text().splitlines()] if diary.exists() else []


def answering(process):
    """Wait until the process answers, and return it."""

    def alive():
        try:
            return process.get("/api/health/live", timeout=2)[0] == 200
        except OSError:
            return False

    until(alive)
    return process


@pytest.fixture(scope="module")
def chromium():
    """A browser for one module: Playwright's event loop runs in this thread, and other tests have their own loops."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=1000 * PATIENCE)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scripted(tmp_path_factory):
    """The service that most tests share, without rate limits and with ADMIN_KEY."""
    folder = tmp_path_factory.mktemp("scripted")
    with GunicornProcess(folder, app=APP, ADMIN_KEY=KEY, **UNLIMITED) as process:
        yield Service(answering(process))


@pytest.fixture
def service(scripted):
    """The shared service with its default script."""
    scripted.script()
    yield scripted
    scripted.script()


@pytest.fixture
def held(service):
    """No answer that is held open goes on before its test says so."""
    release = service.process.folder / "release"
    release.unlink(missing_ok=True)
    yield
    release.unlink(missing_ok=True)


@pytest.fixture
def own_service(tmp_path):
    """Start a service for one test, with its own settings."""
    running = []

    def start(**settings):
        folder = tmp_path / f"own-{len(running)}"
        folder.mkdir()
        process = GunicornProcess(folder, app=APP, **settings)
        running.append(process)
        return Service(answering(process))

    yield start
    for process in running:
        process.__exit__()


@pytest.fixture
def open_page(chromium):
    """Open an address in a new window; options are those of the window (locale, color_scheme, viewport ...)."""
    contexts, troubles = [], []

    def opened(url, **options):
        context = chromium.new_context(**{"locale": "en-US", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if breach(message) else None)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def breach(message):
    """True for console messages that only a fault of ours causes; refused requests are none."""
    return message.type in ("error", "warning") and "Failed to load resource" not in message.text
