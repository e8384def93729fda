"""Every route of a real server against the description of the API.

The long form, against a running service with its limits off (RATE_LIMIT_PER_MINUTE=0, RATE_LIMIT_PER_HOUR=0):

    SCHEMATHESIS_HOOKS=tests.e2e.schemathesis_hooks schemathesis --config-file tests/e2e/schemathesis.toml \\
        run http://127.0.0.1:8085/api/openapi.json --max-examples 500
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.gunicorn_process import ROOT, GunicornProcess, until
from tests.system_programs import unmeasured

pytestmark = pytest.mark.slow

SEED, EXAMPLES = "1", "10"


def answers(process):
    """Return whether the server is ready."""
    try:
        return process.get("/api/health/ready", timeout=2)[0] == 200
    except OSError:
        return False


def test_every_route_matches_its_description(tmp_path):
    """Valid requests get the described bodies, invalid ones and other methods are refused, nothing fails."""
    off = {"RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}
    with GunicornProcess(tmp_path, app="tests.e2e.answering_app:app", **off) as server:
        until(lambda: answers(server))
        done = subprocess.run(
            [
                Path(sys.executable).parent / "schemathesis",
                *("--config-file", ROOT / "tests/e2e/schemathesis.toml", "run"),
                f"http://127.0.0.1:{server.port}/api/openapi.json",
                *("--max-examples", EXAMPLES, "--seed", SEED, "--phases", "coverage,fuzzing", "--no-color"),
            ],
            cwd=tmp_path,
            env=unmeasured() | {"SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr
    assert " passed" in done.stdout
