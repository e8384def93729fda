"""Asks a running service what a client would ask: `python -m deploy.ask PID` for readiness, one text and one picture.

With the standard library alone. What it is given to check is the address on which the process PID listens.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from deploy.service import url_of

PICTURE = Path(__file__).parents[1] / "docs/red-square.png"
PATIENCE = 120.0  # seconds for one answer
REFUSED_FOR_ITS_BUDGET = 429


class WrongAnswer(Exception):
    """The service did not answer as it must; the sentence says what was asked and what came back."""


def request(url: str, body: dict[str, Any] | None = None, timeout: float = PATIENCE) -> tuple[int, bytes]:
    """Return status and body of a GET, or of a POST of JSON; past any proxy. Raises WrongAnswer without an answer."""
    data = None if body is None else json.dumps(body).encode()
    question = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(question, timeout=timeout) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        raise WrongAnswer(f"{url} did not answer: {error}") from None


def expect(url: str, body: dict[str, Any] | None = None, status: int = 200) -> bytes:
    """Return the body of an answer that has this status. Raises WrongAnswer."""
    came, answer = request(url, body)
    if came != status:
        raise WrongAnswer(f"{url} answered {came} instead of {status}: {answer[:300].decode(errors='replace')}")
    return answer


def ready(base: str) -> None:
    """Hold readiness to `ready`. Raises WrongAnswer."""
    answer = json.loads(expect(f"{base}/api/health/ready"))
    if answer.get("status") != "ready":
        raise WrongAnswer(f"{base}/api/health/ready says {answer}")


def write_text(base: str) -> str:
    """Return the text that Avibe writes. Raises WrongAnswer."""
    return _generated(f"{base}/api/v1/text/generate", {"prompt": "Привет!", "max_tokens": 8})


def describe_picture(base: str) -> str:
    """Return what Avision says of a picture. Raises WrongAnswer."""
    picture = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    body = {"prompt": "What is in the picture?", "image": picture, "max_tokens": 8}
    return _generated(f"{base}/api/v1/image/analyze", body)


def _generated(url: str, body: dict[str, Any]) -> str:
    answer = json.loads(expect(url, body))
    if answer.get("success") is not True or answer["data"]["generated_tokens"] < 1:
        raise WrongAnswer(f"{url} answered {answer}")
    text: str = answer["data"]["text"]
    return text


def prove(base: str) -> None:
    """Ask readiness and one answer of each model, and print how long each took. Raises WrongAnswer."""
    ready(base)
    for name, ask in (("Avibe", write_text), ("Avision", describe_picture)):
        began = time.monotonic()
        try:
            ask(base)
        except WrongAnswer as error:
            if f"answered {REFUSED_FOR_ITS_BUDGET} " not in str(error):
                raise
            print(f"==> {name} was not asked: this machine's own budget of requests is spent. Readiness is proven.")
        else:
            print(f"==> {name} answered in {time.monotonic() - began:.1f} s.")


def main(arguments: list[str]) -> int:
    """Prove the service of a process; the exit status is 1 where it did not answer as it must."""
    if len(arguments) != 1 or not arguments[0].isdigit():
        print(__doc__, file=sys.stderr)
        return 2
    base = url_of(int(arguments[0]))
    if base is None:
        print(f"The process {arguments[0]} listens on no port.")
        return 1
    try:
        prove(base)
    except WrongAnswer as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
