"""Judges a new release by a share of the requests: is it as good as the one that serves the rest?

canary.py scrape SECONDS STABLE CANARY             STABLE, CANARY: URLs of the /metrics of two copies
canary.py prometheus SECONDS URL STABLE CANARY     URL of Prometheus; STABLE, CANARY: label matchers, service="avito-ai"

The exit status is 0 if the canary may take over, 1 if it must be withdrawn, with the reason on stdout: too few
requests, more failures, or a first token that takes longer. One that fails most requests is withdrawn at once.
In the environment: CANARY_REQUESTS, how many it must have had (50); CANARY_FAILURES, by which share of its requests
its failures may exceed the other's (0.01); CANARY_FIRST_TOKEN, how many times as long the p95 of its time to first
token may be (1.25). Standard library only, since a pipeline runs it too.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

FAILURES = {
    "overloaded",
    "not_ready",
    "deadline_exceeded",
    "model_error",
    "internal_error",
    "upstream_error",
}
REQUESTS, FIRST = "avito_ai_requests_total", "avito_ai_time_to_first_token_seconds_bucket"
LOOK_EVERY = 2.0  # seconds
HOPELESS, HOPELESS_AFTER = 0.5, 10  # share of failures, of so many requests
SHARE = 0.95
Key = TypeVar("Key")
SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)", re.MULTILINE)


class Figures(NamedTuple):
    """What a release did in some time. first: requests by the upper bound of their time to first token, cumulative."""

    statuses: dict[str, float]
    first: dict[float, float]

    @property
    def requests(self) -> float:
        """Generation requests that ended."""
        return sum(self.statuses.values())

    @property
    def failed(self) -> float:
        """Share of them that failed by the service's fault."""
        return sum(self.statuses.get(status, 0) for status in FAILURES) / max(1, self.requests)

    def first_token(self) -> float | None:
        """Return the p95 of the time to first token in seconds, linear within its bucket; None without any."""
        bounds = sorted(self.first)
        if not bounds or not (total := self.first[bounds[-1]]):
            return None
        below, before = 0.0, 0.0
        for bound in bounds:
            count = self.first[bound]
            if count >= SHARE * total:
                end = bound if bound != float("inf") else below
                return below + (end - below) * (SHARE * total - before) / max(1, count - before)
            below, before = bound, count
        return below

    def since(self, earlier: Figures) -> Figures:
        """Return what was done after `earlier`; counters that went back began anew with a new process."""
        if self.requests < earlier.requests:
            return self
        return Figures(_more(self.statuses, earlier.statuses), _more(self.first, earlier.first))


def _more(later: dict[Key, float], earlier: dict[Key, float]) -> dict[Key, float]:
    return {key: value - earlier.get(key, 0) for key, value in later.items()}


# What both releases did in the seconds since the watch began.
Look = Callable[[float], tuple[Figures, Figures]]


class Thresholds(NamedTuple):
    """What a canary may do worse."""

    requests: float = 50
    failures: float = 0.01
    first_token: float = 1.25


def judge(stable: Figures, canary: Figures, thresholds: Thresholds) -> str:
    """Return why a canary must be withdrawn, "" if it may take over."""
    if canary.failed > stable.failed + thresholds.failures:
        return f"{canary.failed:.1%} of its requests failed, and {stable.failed:.1%} of the others"
    if canary.requests < thresholds.requests:
        return f"it had {canary.requests:.0f} requests only, too few to judge it"
    ours, theirs = canary.first_token(), stable.first_token()
    if ours is not None and theirs is not None and ours > thresholds.first_token * theirs:
        return f"its p95 of the time to first token is {ours:.3f} s, and {theirs:.3f} s of the others"
    return ""


def hopeless(canary: Figures) -> bool:
    """Return whether a canary fails so often that waiting longer would only harm clients."""
    return canary.requests >= HOPELESS_AFTER and canary.failed > HOPELESS


def read_text(text: str) -> Figures:
    """Return the figures in Prometheus' text format."""
    figures = Figures(defaultdict(float), defaultdict(float))
    for name, labels, value in SAMPLE.findall(text):
        if name == REQUESTS:
            figures.statuses[_label(labels, "status")] += float(value)
        elif name == FIRST:
            figures.first[float(_label(labels, "le"))] += float(value)
    return figures


def _label(labels: str, name: str) -> str:
    found = re.search(rf'(?:^|,){name}="([^"]*)"', labels)
    return found[1] if found else ""


def fetch(url: str) -> str:
    """Return what a URL responds."""
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is not http:// or https://")
    with urllib.request.urlopen(url, timeout=10) as response:  # nosec B310 # checked above
        text: str = response.read().decode()
    return text


def scraping(stable: str, canary: str) -> Look:
    """Return a look at both since now, by their own /metrics."""
    before = [read_text(fetch(url)) for url in (stable, canary)]

    def look(_: float) -> tuple[Figures, Figures]:
        first, second = (
            read_text(fetch(url)).since(earlier) for url, earlier in zip((stable, canary), before, strict=True)
        )
        return first, second

    return look


def asking(url: str, stable: str, canary: str) -> Look:
    """Return a look at both since now, by Prometheus."""

    def ask(query: str) -> list[tuple[dict[str, str], float]]:
        answer = json.loads(fetch(f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
        return [(sample["metric"], float(sample["value"][1])) for sample in answer["data"]["result"]]

    def figures(matchers: str, seconds: int) -> Figures:
        statuses = ask(f"sum by (status) (increase({REQUESTS}{{{matchers}}}[{seconds}s]))")
        first = ask(f"sum by (le) (increase({FIRST}{{{matchers}}}[{seconds}s]))")
        return Figures(
            {labels["status"]: value for labels, value in statuses},
            {float(labels["le"]): value for labels, value in first},
        )

    def look(seconds: float) -> tuple[Figures, Figures]:
        passed = max(60, round(seconds))  # a rate needs two scrapes
        return figures(stable, passed), figures(canary, passed)

    return look


def watch(
    look: Look,
    seconds: float,
    thresholds: Thresholds,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Watch both for some time; return why the canary must be withdrawn, "" if it may take over."""
    began = now()
    while True:
        left = began + seconds - now()
        sleep(max(0.0, min(LOOK_EVERY, left)))
        try:
            stable, canary = look(now() - began)
        except (OSError, ValueError, KeyError) as error:
            return f"its figures cannot be read: {error}"
        if hopeless(canary) or now() >= began + seconds:
            return judge(stable, canary, thresholds)


def main(arguments: list[str]) -> int:
    """Run the command line."""
    kinds: dict[tuple[str, int], Callable[..., Look]] = {("scrape", 4): scraping, ("prometheus", 5): asking}
    start = kinds.get((arguments[0], len(arguments))) if arguments else None
    if start is None:
        print(__doc__, file=sys.stderr)
        return 2
    environ = os.environ
    thresholds = Thresholds(
        float(environ.get("CANARY_REQUESTS", "50")),
        float(environ.get("CANARY_FAILURES", "0.01")),
        float(environ.get("CANARY_FIRST_TOKEN", "1.25")),
    )
    try:
        reason = watch(start(*arguments[2:]), float(arguments[1]), thresholds)
    except (OSError, ValueError) as error:
        reason = f"its figures cannot be read: {error}"
    print(f"The canary is withdrawn: {reason}." if reason else "The canary may take over.")
    return 1 if reason else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # this file also runs where the others are not
        sys.exit(128 + signal.SIGINT)
