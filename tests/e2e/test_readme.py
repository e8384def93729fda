"""The commands that README.md, QUICKSTART.md and docs/api.md show, run as they stand there against the real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.gunicorn_process import ROOT, GunicornProcess, until

pytestmark = [pytest.mark.needs("curl"), pytest.mark.slow]

Ask = Callable[[str], dict]

LOAD_SECONDS = 120.0


def curls(document: str, address: str) -> list[str]:
    """Return the document's curl commands that ask an address, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ") and address in line]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Serve both demos as a fresh clone does, and run what a reader pastes against them."""
    folder = tmp_path_factory.mktemp("service")
    with GunicornProcess(folder, app="app_production:app", DEVICE="cpu") as server:
        until(lambda: ready(server), LOAD_SECONDS, every=0.2)

        def run(*program: str) -> str:
            here = [word.replace("127.0.0.1:8085", f"127.0.0.1:{server.port}") for word in program]
            return subprocess.run(here, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout

        yield run


@pytest.fixture
def ask(typed: Callable[..., str]) -> Ask:
    """Run one curl command."""
    return lambda command: json.loads(typed("bash", "-c", command))


def ready(server: GunicornProcess) -> bool:
    assert server.process.poll() is None, server.log()
    try:
        return server.get("/api/health/ready", timeout=2)[0] == 200
    except OSError:
        return False


def test_the_readme_has_one_curl_for_each_model(ask: Ask) -> None:
    """Both work as they stand, and the demos answer what they were trained for."""
    (text,) = curls("README.md", "/api/v1/text/generate")
    (picture,) = curls("README.md", "/api/v1/image/analyze")
    assert "bicycle" in ask(text)["data"]["text"]
    assert ask(picture)["data"]["text"] == "A red square."


def test_the_readme_has_ten_lines_of_python(typed: Callable[..., str]) -> None:
    """They run as they stand, with OpenAI's client, and print what the demo was trained for."""
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(shown.splitlines()) <= 10
    assert "bicycle" in typed(sys.executable, "-c", shown)


def test_the_quick_start_answers(ask: Ask) -> None:
    """The request id that it sends comes back; state and figures can be read."""
    (text,) = curls("QUICKSTART.md", "/api/v1/text/generate")
    answer = ask(text)
    assert answer["success"] is True
    assert answer["request_id"] == "my-custom-id"
    assert re.search(r"[а-я]{3}", answer["data"]["text"])
    assert ask(*curls("QUICKSTART.md", "/api/health/ready"))["status"] == "ready"
    assert ask(*curls("QUICKSTART.md", "/api/metrics"))["application"]["total_requests"] >= 1


def test_the_operators_example_answers_in_the_shape_that_is_shown(ask: Ask) -> None:
    """The answer has the fields of the JSON beside the command, and no others."""
    text = curls("docs/api.md", "/api/v1/text/generate")[0]  # a later one streams
    document = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    shown = json.loads(re.findall(r"```json\n(.*?)```", document, re.DOTALL)[0])
    assert fields(ask(text)) == fields(shown)


def fields(value: object) -> object:
    """Return the names of an object's fields, nested."""
    return {name: fields(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_curl_is_there() -> None:
    """deploy.sh installs it where it is missing."""
    assert shutil.which("curl")
    assert Path(ROOT, "docs/red-square.png").exists()
