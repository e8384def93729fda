"""Sends one generation request over HTTP and times its answer: one connection per request, all on one event loop.

A fresh connection keeps requests independent of each other. Its cost (well under a millisecond on one machine) is part
of every figure, for every server alike.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

from benchmarks.harness.figures import Outcome
from benchmarks.harness.http_answer import Answer, BadAnswer, ChatStream, OwnStream, WholeJson
from benchmarks.harness.http_exchange import UNREADABLE, Exchange
from benchmarks.harness.workload import Job

CHAT = "/chat/completions"
OWN_TEXT = "/api/v1/text/generate"
OWN_IMAGE = "/api/v1/image/analyze"


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. url: an OpenAI-style `.../chat/completions`, or one of our own JSON routes.

    model: the model's name in chat requests; key: for the Authorization header; timeout: seconds for one request;
    whole: ask a JSON route for its answer in one piece, without the time of its first text.
    """

    url: str
    model: str = ""
    key: str | None = None
    timeout: float = 900.0
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.url.startswith("http://") or not self.path.endswith((CHAT, OWN_TEXT, OWN_IMAGE)):
            raise ValueError(f"{self.url}: expected http:// and a path that ends in {CHAT}, {OWN_TEXT} or {OWN_IMAGE}")

    @property
    def path(self) -> str:
        """The path of the URL."""
        return urlsplit(self.url).path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    def answer(self) -> Answer:
        """Return a reader for one answer."""
        if self.path.endswith(CHAT):
            return ChatStream()
        return WholeJson() if self.whole else OwnStream()

    def request(self, job: Job) -> tuple[h11.Request, bytes]:
        """Return one request and its body."""
        payload = _chat(job, self.model) if self.path.endswith(CHAT) else _own(job, self.whole)
        body = json.dumps(payload).encode()
        host, port = self.address
        headers = [
            ("Host", f"{host}:{port}"),
            ("Connection", "close"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *([("Authorization", f"Bearer {self.key}")] if self.key else []),
        ]
        return h11.Request(method="POST", target=self.path, headers=headers), body


async def ask(target: Target, job: Job, due: float) -> Outcome:
    """Send one request and return its outcome, timed from `due` on the clock of `time.perf_counter`. Never raises."""
    answer = target.answer()
    error = None
    try:
        async with asyncio.timeout(target.timeout):
            await _exchange(target, job, answer)
    except TimeoutError:
        error = f"no end within {target.timeout:g} s"
    except (BadAnswer, OSError) as reason:
        error = str(reason) or type(reason).__name__
    except UNREADABLE as reason:
        error = f"an answer that cannot be read ({type(reason).__name__})"
    return _outcome(answer, due, time.perf_counter(), error)


async def _exchange(target: Target, job: Job, answer: Answer) -> None:
    host, port = target.address
    request, body = target.request(job)
    transport, exchange = await asyncio.get_running_loop().create_connection(
        lambda: Exchange(request, body, answer), host, port
    )
    try:
        await exchange.over
    finally:
        transport.close()


def _outcome(answer: Answer, due: float, ended: float, error: str | None) -> Outcome:
    received = answer.received
    arrivals = received.arrivals
    if error is None and received.tokens is None:
        error = "the answer did not say how many tokens it has"
    return Outcome(
        seconds=ended - due,
        tokens=received.tokens or 0,
        first=arrivals[0] - due if arrivals else None,
        gaps=[later - earlier for earlier, later in zip(arrivals, arrivals[1:], strict=False)],
        error=error,
    )


def _chat(job: Job, model: str) -> dict[str, object]:
    content: object = job.prompt
    if job.image is not None:
        content = [
            {"type": "image_url", "image_url": {"url": _data_url(job.image)}},
            {"type": "text", "text": job.prompt},
        ]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _own(job: Job, whole: bool) -> dict[str, object]:
    body: dict[str, object] = {"prompt": job.prompt, "max_tokens": job.max_tokens, "temperature": job.temperature}
    body |= {} if whole else {"stream": True}
    return body if job.image is None else body | {"image": _data_url(job.image)}


def _data_url(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
