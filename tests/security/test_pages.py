"""Markup injected into a page: scripts in answers, names and addresses; see docs/known-vulnerabilities.md."""

import re

import pytest

from routes.markdown import rendered
from tests.routes.test_markdown import Elements

LINKS = ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "java&#10;script:alert(1)", "data:text/html,<script>1</script>"]
LINKS += ["vbscript:x", "file:///etc/passwd", "//evil.example", "\x01javascript:alert(1)", "blob:x"]
SCRIPT = "<script>alert(1)</script>"


def attributes(html):
    """Return each attribute of each element, as the browser reads it."""
    elements = Elements()
    elements.feed(html)
    return [attribute for _, found in elements.found for attribute in found.items()]


@pytest.mark.parametrize("address", LINKS)
def test_a_link_leads_to_the_web_or_to_mail(address):
    """Written as a link, a reference, an image or by itself."""
    forms = [f"[x]({address})", f"[x](<{address}>)", f"[x][1]\n\n[1]: {address}", f"![x]({address})", f"<{address}>"]
    for html in map(str, map(rendered, forms)):
        assert all(
            value.startswith(("http://", "https://", "mailto:")) for name, value in attributes(html) if name == "href"
        )
        assert not re.search(r"<(img|script|iframe|object|svg)", html)
        assert not [name for name, _ in attributes(html) if name.startswith("on")]


def test_a_link_that_leads_to_the_web_does_nothing_else():
    """It has no attribute that a browser runs."""
    found = attributes(str(rendered("[x](https://x.example)")))
    assert ("href", "https://x.example") in found
    assert not [name for name, _ in found if name.startswith("on")]


@pytest.mark.parametrize(
    "text",
    [
        rf"$\foo{SCRIPT}$",
        r"$$\unknown{<img src=x onerror=alert(1)>}$$",
        f'```mermaid\ngraph TD; a["{SCRIPT}"] --> b\n```',
        "```html\n<img src=x onerror=alert(1)>\n```",
        f'<details type="tool_calls" embeds="[&quot;{SCRIPT}&quot;]"></details>',
        '<iframe srcdoc="<script>alert(1)</script>"></iframe>',
        '<svg onload="alert(1)">',
        f"| a |\n|---|\n| {SCRIPT} |",
    ],
)
def test_formulas_diagrams_and_markup_are_text(text):
    """Nothing in an answer is rendered, embedded or run: its markup is shown as text."""
    html = str(rendered(text))
    assert not re.search(r"<(script|img|iframe|svg|details|object|embed|style|link|form)", html)
    assert not [name for name, _ in attributes(html) if name.startswith("on")]


@pytest.mark.parametrize("path", [f"/{SCRIPT}", f"/?q={SCRIPT}", f"/status?name={SCRIPT}", f"/v1/models/{SCRIPT}"])
def test_an_address_is_not_repeated_as_markup(client, path):
    """Neither a page nor a message contains its text as an element."""
    response = client.get(path)
    assert SCRIPT not in response.text or response.mimetype == "application/json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_runs_its_own_scripts_alone(client):
    """Injected code would not run: no inline scripts, foreign scripts, frames or plug-ins."""
    policy = client.get("/").headers["Content-Security-Policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "default-src" in policy
