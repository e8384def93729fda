"""Every example of the description, run as it stands there against the real service: with curl and in Python."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest

from routes.code_samples import ADDRESS, KEY
from tests.e2e.demo_service import start
from tests.e2e.gunicorn_process import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def open_service(demo_server):
    """The address of a service that asks for no key, and no key."""
    return f"http://127.0.0.1:{demo_server.port}", ""


@pytest.fixture(scope="module")
def service_with_keys(tmp_path_factory):
    """The address of a service that asks for keys, and one."""
    folder = tmp_path_factory.mktemp("keys")
    settings = {"AUTH": "keys", "STATE_DIR": str(folder / "state")}
    make = [sys.executable, "-m", "keys", "make", "examples"]
    made = subprocess.run(make, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=True)
    with start(folder, **settings) as server:
        yield f"http://127.0.0.1:{server.port}", made.stdout.strip()


@pytest.fixture(scope="module", params=["open_service", "service_with_keys"])
def examples(request):
    """Every operation that has examples, with their labels and programs, at the address of a server, with its key."""
    address, key = request.getfixturevalue(request.param)
    with urllib.request.urlopen(f"{address}/api/openapi.json") as answer:
        paths = json.load(answer)["paths"]
    samples = [
        (f"{method.upper()} {path}", sample["lang"], sample["label"], sample["source"].replace(ADDRESS, address))
        for path, operations in paths.items()
        for method, operation in operations.items()
        for sample in operation.get("x-codeSamples", [])
    ]
    assert any(KEY in source for *_, source in samples) == bool(key)
    return [(*named, source.replace(KEY, key)) for *named, source in samples]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the picture that the examples upload."""
    shutil.copy(ROOT / "docs/red-square.png", tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.needs("curl")
def test_every_example_for_the_shell_works(examples, folder):
    """None is refused; what is no stream and no text for Prometheus is JSON."""
    shell = [(name, label, source) for name, language, label, source in examples if language == "Shell"]
    assert len(shell) >= 30
    for name, label, source in shell:
        done = subprocess.run(["bash", "-euc", source], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (name, label, done.stderr)
        if "-sN" in source:
            assert not re.search(r'"error": ?[{"]', done.stdout), (name, label)
            assert len(done.stdout.splitlines()) > 1, (name, label)
        elif name != "GET /metrics":
            assert not (json.loads(done.stdout) or {}).get("error"), (name, label, done.stdout)


def test_every_example_in_python_works(examples, folder):
    """None raises, and what it prints is something."""
    programs = [(name, label, source) for name, language, label, source in examples if language == "Python"]
    assert len(programs) >= 30
    for name, label, source in programs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, f"{name}, {label}", "exec"), {})
        assert printed.getvalue().strip() or name.startswith("DELETE"), (name, label)
