"""The examples of docs/api.md, run as they stand there, against the real service."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.e2e.gunicorn_process import ROOT

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1:8085"


def examples(heading):
    """Return the code blocks under a heading: language and text."""
    document = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    section = document.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(bash|python)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


def run(server, language, text):
    """Run one example against this server; return what it printed."""
    program = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[language]
    done = subprocess.run(
        [*program, text.replace(ADDRESS, f"127.0.0.1:{server.port}")],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


HEADINGS = ("First requests", "OpenAI's clients", "The Responses API", "Anthropic's clients")
HEADINGS += ("Errors", "Streams and batches")
SHOWN = [example for heading in HEADINGS for example in examples(heading)]


def test_the_examples_are_found():
    """A renamed heading would leave no example to run."""
    assert [language for language, _ in SHOWN] == [
        *("python", "bash"),
        *(["bash"] * 4 + ["python"]),
        *(["bash"] * 2 + ["python"]) * 2,
        *("python", "bash"),
    ]


@pytest.mark.parametrize("number", range(len(SHOWN)))
@pytest.mark.needs("curl")
def test_an_example_works_as_written(demo_server, number):
    """With curl and with the client, as a reader pastes it."""
    language, text = SHOWN[number]
    printed = run(demo_server, language, text)
    assert printed.strip()
    assert "prompts" in text or not re.search(r'"error": ?[{"]', printed)  # the batch has a wrong text
    if '"stream": true' in text and language == "bash":
        events = re.sub(r"\A(:.*\n+)+", "", printed)  # lines that keep the connection alive
        assert events.startswith(("data: {", "event: response.created", "event: message_start"))
    elif "json_schema" in text and language == "bash":
        answer = json.loads(printed)["choices"][0]
        assert answer["finish_reason"] == "length" or set(json.loads(answer["message"]["content"])) == {
            "title",
            "price",
        }


@pytest.mark.needs("curl")
def test_the_batch_of_the_example_has_a_line_for_each_text(demo_server):
    """The bad one too."""
    _, text = SHOWN[-1]
    printed = run(demo_server, "bash", text)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith('{"index"')]
    assert sorted((line["index"], line.get("success", False)) for line in lines) == [(0, True), (1, True), (2, False)]
