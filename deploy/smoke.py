"""The smoke tests of a release: `python -m deploy.smoke` in its folder, with its virtual environment.

They start the real service on a free local port with the demo models on the CPU, call each interface once, and stop it.
The operator's settings are not read, no GPU is used, and nothing is left behind.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deploy import ask
from deploy.ask import WrongAnswer, expect, request
from deploy.probe import free_port

LIMIT = 240.0  # seconds until ready; 30 are usual, but a busy machine must not fail a release
POLL = 0.25
STOP = 20.0
COMMAND = [sys.executable, "-m", "gunicorn", "-c", "gunicorn_config.py", "app_production:app"]


def environment(folder: Path, port: int) -> dict[str, str]:
    """Return the whole environment of the service under test."""
    empty = folder / "settings"
    empty.touch()
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "ENV_FILE": str(empty),
        "ENVIRONMENT": "production",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "DEVICE": "cpu",
        "CPU_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "VIBE_MODEL_DIR": "demo",
        "VISION_MODEL_DIR": "demo",
        "MAX_NUM_SEQS": "4",
        "MAX_WAITING": "4",
        "DRAIN_SECONDS": "5",
    }


def check_text(base: str) -> None:
    """Avibe generates a text."""
    ask.generate_text(base)


def check_stream(base: str) -> None:
    """A stream of the OpenAI API is complete."""
    body = {"model": "avibe", "messages": [{"role": "user", "content": "Привет!"}], "max_tokens": 8, "stream": True}
    events = expect(f"{base}/v1/chat/completions", body)
    if not events.rstrip().endswith(b"data: [DONE]"):
        raise WrongAnswer(f"The stream of /v1/chat/completions ended with {events[-200:]!r}")


def check_image(base: str) -> None:
    """Avision analyzes an image."""
    ask.analyze_image(base)


def check_page(base: str) -> None:
    """The page has both forms."""
    page = expect(f"{base}/").decode()
    if 'action="/avibe' not in page or 'action="/avision' not in page:
        raise WrongAnswer("The page lacks one of its forms.")


def check_refusals(base: str) -> None:
    """Invalid requests are refused with their statuses."""
    expect(f"{base}/api/v1/text/generate", {"prompt": ""}, status=400)
    expect(f"{base}/api/v1/nothing", status=404)


def check_figures(base: str) -> None:
    """Both kinds of metrics count the requests."""
    if json.loads(expect(f"{base}/api/metrics"))["application"]["successful_requests"] < 1:
        raise WrongAnswer("/api/metrics counts no request.")
    if b"avito_ai_requests_total" not in expect(f"{base}/metrics"):
        raise WrongAnswer("/metrics has no avito_ai_requests_total.")


CHECKS: tuple[Callable[[str], None], ...] = (
    check_text,
    check_stream,
    check_image,
    check_page,
    check_refusals,
    check_figures,
)


def run(folder: Path, command: list[str] = COMMAND, limit: float = LIMIT) -> str:
    """Start the service, check it, stop it; return a sentence of success. Raises WrongAnswer."""
    began, port = time.monotonic(), free_port(18085)
    output = folder / "output"
    with output.open("wb") as stream:
        process = subprocess.Popen(command, env=environment(folder, port), stdout=stream, stderr=subprocess.STDOUT)
    try:
        base = f"http://127.0.0.1:{port}"
        _await_ready(process, base, began + limit)
        loaded = time.monotonic() - began
        for check in CHECKS:
            check(base)
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(STOP)) != 0:
            raise WrongAnswer(f"It exited with status {status} at SIGTERM.")
    except subprocess.TimeoutExpired:
        raise WrongAnswer(f"It did not stop within {STOP:.0f} s.") from None
    except WrongAnswer as error:
        raise WrongAnswer(f"{error}\n{_last_lines(output)}") from None
    finally:
        process.kill()
        process.wait()
    return f"All {len(CHECKS)} smoke tests pass: ready after {loaded:.1f} s, {time.monotonic() - began:.1f} s in total."


def _await_ready(process: subprocess.Popen[bytes], base: str, until: float) -> None:
    while time.monotonic() < until:
        if process.poll() is not None:
            raise WrongAnswer(f"The service exited with status {process.returncode} before it was ready.")
        try:
            if request(f"{base}/api/health/ready", timeout=5.0)[0] == 200:
                return
        except WrongAnswer:
            pass
        time.sleep(POLL)
    raise WrongAnswer("The service was not ready in time.")


def _last_lines(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-15:])


def main() -> int:
    """Run the smoke tests; the exit status is 1 if one fails."""
    with tempfile.TemporaryDirectory(prefix="avito-ai-smoke-") as folder:
        try:
            print(f"==> {run(Path(folder))}")
        except WrongAnswer as error:
            print(f"Smoke test: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
