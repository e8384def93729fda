"""Checks a running service as a client: `python -m deploy.ask PID` requests readiness, one text and one image.

Standard library only. The service is found at the address on which the process PID listens.
"""

from __future__ import annotations

import base64
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from deploy.service import url_of

IMAGE = Path(__file__).parents[1] / "docs/red-square.png"
PATIENCE = 310.0  # seconds for one response, more than the service's own REQUEST_TIMEOUT
# What a client that has no key of its own is told by a service that works: why its answer proves nothing.
UNANSWERED = {401: "AUTH asks each client for a key", 429: "this machine is over its rate limit"}
FULL = b'"overloaded"'
# A service that is full refuses one request and takes the next; what lasts longer is no fullness.
FULL_SECONDS, PAUSE = 60.0, 1.0


class WrongAnswer(Exception):
    """An unexpected response; the message has the URL and what was returned, `status` is 0 where nothing was."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(WrongAnswer):
    """No response, or one of a service that is full: the next request may get another."""


def request(url: str, body: dict[str, object] | None = None, timeout: float = PATIENCE) -> tuple[int, bytes]:
    """Return status and body of a GET, or of a POST of JSON, without a proxy. Raises WrongAnswer if that fails."""
    data = None if body is None else json.dumps(body).encode()
    outgoing = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        try:
            with opener.open(outgoing, timeout=timeout) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()  # which may stop half-way, too
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"{url} did not answer: {error}") from None


def expect(url: str, body: dict[str, object] | None = None, status: int = 200) -> bytes:
    """Return the body of a response with this status. Raises WrongAnswer for any other."""
    actual, answer = request(url, body)
    if actual != status:
        kind = NoAnswer if FULL in answer else WrongAnswer
        raise kind(f"{url} answered {actual} instead of {status}: {answer[:300].decode(errors='replace')}", actual)
    return answer


def ready(base: str) -> None:
    """Check that readiness is `ready`. Raises WrongAnswer."""
    answer = json.loads(expect(f"{base}/api/health/ready"))
    if answer.get("status") != "ready":
        raise WrongAnswer(f"{base}/api/health/ready says {answer}")


def generate_text(base: str) -> str:
    """Return a text of Avibe, as long as it is where nobody says. Raises WrongAnswer."""
    return _generated(f"{base}/api/v1/text/generate", {"prompt": "Привет!"})


def analyze_image(base: str) -> str:
    """Return a text of Avision about an image. Raises WrongAnswer."""
    image = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
    return _generated(f"{base}/api/v1/image/analyze", {"prompt": "What is in the picture?", "image": image})


def _generated(url: str, body: dict[str, object]) -> str:
    answer = json.loads(expect(url, body))
    if answer.get("success") is not True or answer["data"]["generated_tokens"] < 1:
        raise WrongAnswer(f"{url} answered {answer}")
    text: str = answer["data"]["text"]
    return text


def again_while_full(check: Callable[[str], object], base: str, seconds: float = FULL_SECONDS) -> None:
    """Call a check until it has an answer, for some time, since clients may fill the service. Raises WrongAnswer."""
    until = time.monotonic() + seconds
    while True:
        try:
            check(base)
            return
        except NoAnswer:
            if time.monotonic() >= until:
                raise
        time.sleep(PAUSE)


def prove(base: str) -> None:
    """Check readiness and request one answer from each model; print their times. Raises WrongAnswer."""
    again_while_full(ready, base)
    for name, ask in (("Avibe", generate_text), ("Avision", analyze_image)):
        began = time.monotonic()
        try:
            again_while_full(ask, base)
        except WrongAnswer as error:
            if error.status not in UNANSWERED:
                raise
            print(f"==> {name} was not checked: {UNANSWERED[error.status]}. Readiness is confirmed.")
        else:
            print(f"==> {name} answered in {time.monotonic() - began:.1f} s.")


def main(arguments: list[str]) -> int:
    """Check the service of a process; the exit status is 1 on an unexpected response."""
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
