"""Tries a site as its clients do: `python -m deploy.site_check URL` calls each interface once, then loads it shortly.

For what has just been deployed, from outside, through the proxy: nothing is needed of the machine that serves. The
load is from CLIENTS clients at once, for --seconds; it fails if a request fails that was not refused by a limit, or if
none succeeded. API_KEY in the environment, or what is in the file that API_KEY_FILE names, is sent where the site asks
for keys. Standard library only; the exit status is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deploy.secret_file import NoSecret, read_secret

IMAGE = Path(__file__).parents[1] / "docs/red-square.png"
PATIENCE = 120.0  # seconds for one response
CLIENTS = 4
# Refused by a limit: the site has done what it should, and the load goes on more slowly.
REFUSED = (429, 503)
PAUSE = 1.0  # seconds after a refusal
CHAT = {"model": "avibe", "messages": [{"role": "user", "content": "Привет!"}], "max_tokens": 8}
TEXT = {"prompt": "Привет!", "max_tokens": 8}


class Wrong(Exception):
    """What the site did wrong, in one sentence."""


@dataclass(frozen=True, slots=True)
class Site:
    """A site. key: sent as a bearer token, "" for none."""

    url: str
    key: str = ""

    def ask(self, path: str, body: dict[str, object] | None = None) -> tuple[int, bytes]:
        """Return status and body of a GET, or of a POST of JSON; status 0 if there was no whole response."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            outgoing = urllib.request.Request(self.url.rstrip("/") + path, data, headers)
            try:
                with urllib.request.urlopen(outgoing, timeout=PATIENCE) as response:  # nosec B310 # the operator names it
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()  # which may stop half-way, too
        except (OSError, ValueError, http.client.HTTPException) as error:
            return 0, str(error).encode()

    def expect(self, path: str, body: dict[str, object] | None = None, status: int = 200) -> bytes:
        """Return the body of a response with this status. Raises Wrong for any other."""
        actual, answer = self.ask(path, body)
        if actual != status:
            raise Wrong(f"{path} answered {actual} instead of {status}: {answer[:300].decode(errors='replace')}")
        return answer


def text(site: Site) -> None:
    """Avibe generates a text."""
    if not json.loads(site.expect("/api/v1/text/generate", TEXT))["data"]["text"]:
        raise Wrong("/api/v1/text/generate answered without a text.")


def image(site: Site) -> None:
    """Avision analyzes an image."""
    picture = f"data:image/png;base64,{base64.b64encode(IMAGE.read_bytes()).decode()}"
    site.expect("/api/v1/image/analyze", {"image": picture, "prompt": "What colour?", "max_tokens": 8})


def stream(site: Site) -> None:
    """A stream of OpenAI's API is whole."""
    if not site.expect("/v1/chat/completions", CHAT | {"stream": True}).rstrip().endswith(b"data: [DONE]"):
        raise Wrong("The stream of /v1/chat/completions has no end.")


def page(site: Site) -> None:
    """The page is there; what is no route, and what is no request, are refused."""
    if b'action="/avibe' not in site.expect("/"):
        raise Wrong("The page lacks its form.")
    site.expect("/api/v1/nothing", status=404)
    site.expect("/api/v1/text/generate", {"prompt": ""}, status=400)


def hidden(site: Site) -> None:
    """What is for the operator has no way in from outside."""
    for path in ("/metrics", "/status"):
        if site.ask(path)[0] == 200:
            raise Wrong(f"{path} is open to everybody.")


CHECKS: tuple[Callable[[Site], None], ...] = (text, image, stream, page, hidden)


def load(site: Site, seconds: float, clients: int = CLIENTS) -> str:
    """Load the site; return a sentence with its figures. Raises Wrong."""
    until = time.monotonic() + seconds
    with ThreadPoolExecutor(clients) as pool:
        found = [
            one for client in [pool.submit(_client, site, until) for _ in range(clients)] for one in client.result()
        ]
    statuses = Counter(status for status, _ in found)
    failed = sum(count for status, count in statuses.items() if status != 200 and status not in REFUSED)
    if failed or not statuses[200]:
        raise Wrong(f"Under load {failed} of {len(found)} requests failed; by status: {dict(statuses)}.")
    times = sorted(took for status, took in found if status == 200)
    refused = len(found) - statuses[200]
    return (
        f"{statuses[200]} answers to {clients} clients in {seconds:.0f} s, {refused} refused by limits; "
        f"p50 {times[len(times) // 2]:.2f} s, longest {times[-1]:.2f} s."
    )


def _client(site: Site, until: float) -> list[tuple[int, float]]:
    """Ask until the time has come, at least once; return status and seconds of each request."""
    found: list[tuple[int, float]] = []
    while not found or time.monotonic() < until:
        began = time.monotonic()
        status, _ = site.ask("/v1/chat/completions", {**CHAT, "max_tokens": 32})
        found.append((status, time.monotonic() - began))
        if status in REFUSED:
            time.sleep(min(PAUSE, max(0.0, until - time.monotonic())))
    return found


def main(arguments: list[str]) -> int:
    """Check and load the site of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.site_check")
    parser.add_argument("url", help="of the site, such as https://ai.example.com")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load; 0 for none")
    options = parser.parse_args(arguments)
    try:
        site = Site(options.url, read_secret("API_KEY", os.environ))
        for check in CHECKS:
            check(site)
            print(f"{check.__name__}: as it should be", flush=True)
        if options.seconds:
            print(load(site, options.seconds))
    except (Wrong, NoSecret) as wrong:
        print(f"Error: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
