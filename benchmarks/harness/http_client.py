"""Asks one generation request over HTTP and times its answer. One connection a request, all on one event loop.

A fresh connection each time leaves nothing of one request to the next, and its cost (well under a millisecond on one
machine) is part of every figure, for every server alike.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.harness.figures import Outcome
from benchmarks.harness.http_answer import Answer, BadAnswer, ChatStream, HttpParser, OwnStream, WholeJson
from benchmarks.harness.workload import Job

CHAT = "/chat/completions"
OWN_TEXT = "/api/v1/text/generate"
OWN_PICTURE = "/api/v1/image/analyze"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask. url: an OpenAI-style `.../chat/completions`, or one of our own JSON routes.

    model: the name a chat request carries; key: for the Authorization header; timeout: seconds for one request;
    whole: ask a JSON route for its answer in one piece, whose first text is not known then.
    """

    url: str
    model: str = ""
    key: str | None = None
    timeout: float = 900.0
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.url.startswith("http://") or not self.path.endswith((CHAT, OWN_TEXT, OWN_PICTURE)):
            raise ValueError(
                f"{self.url}: expected http:// and a path that ends in {CHAT}, {OWN_TEXT} or {OWN_PICTURE}"
            )

    @property
    def path(self) -> str:
        """The path to ask."""
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

    def request(self, job: Job) -> bytes:
        """Return the bytes of one request."""
        asked = _chat(job, self.model) if self.path.endswith(CHAT) else _own(job, self.whole)
        body = json.dumps(asked).encode()
        host, port = self.address
        head = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {host}:{port}",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *([f"Authorization: Bearer {self.key}"] if self.key else []),
        ]
        return "\r\n".join([*head, "", ""]).encode() + body


class _Exchange(asyncio.Protocol):
    """One request and its answer; `over` ends with None or with what went wrong."""

    def __init__(self, request: bytes, answer: Answer) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._answer = request, answer
        self._parser = HttpParser()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        try:
            body = self._parser.feed(data)
            if self._parser.status not in (None, 200):
                raise BadAnswer(f"status {self._parser.status}")
            self._answer.feed(body, now)
            if self._parser.done:
                self._end()
        except (BadAnswer, ValueError, KeyError, TypeError) as error:
            self._settle(error)

    def connection_lost(self, error: Exception | None) -> None:
        if self.over.done():
            return
        try:
            self._parser.end()
            self._end()
        except (BadAnswer, ValueError, KeyError, TypeError) as reason:
            self._settle(error or reason)

    def _end(self) -> None:
        self._answer.end()
        self._settle(None)

    def _settle(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None) if error is None else self.over.set_exception(error)
        self._transport.close()


async def ask(target: Target, job: Job, due: float) -> Outcome:
    """Ask once and return how it went, counted from `due` on the clock of `time.perf_counter`. Raises nothing."""
    answer = target.answer()
    error = None
    try:
        async with asyncio.timeout(target.timeout):
            await _exchange(target, job, answer)
    except TimeoutError:
        error = f"no end within {target.timeout:g} s"
    except (BadAnswer, OSError) as reason:
        error = str(reason) or type(reason).__name__
    except (ValueError, KeyError, TypeError) as reason:
        error = f"an answer that cannot be read ({type(reason).__name__})"
    return _outcome(answer, due, time.perf_counter(), error)


async def _exchange(target: Target, job: Job, answer: Answer) -> None:
    host, port = target.address
    request = target.request(job)
    transport, protocol = await asyncio.get_running_loop().create_connection(
        lambda: _Exchange(request, answer), host, port
    )
    try:
        await protocol.over
    finally:
        transport.close()


def _outcome(answer: Answer, due: float, ended: float, error: str | None) -> Outcome:
    heard = answer.heard
    arrivals = heard.arrivals
    if error is None and heard.tokens is None:
        error = "the answer did not say how many tokens it has"
    return Outcome(
        seconds=ended - due,
        tokens=heard.tokens or 0,
        first=arrivals[0] - due if arrivals else None,
        gaps=[later - earlier for earlier, later in zip(arrivals, arrivals[1:], strict=False)],
        error=error,
    )


def _chat(job: Job, model: str) -> dict[str, Any]:
    content: Any = job.prompt
    if job.picture is not None:
        content = [
            {"type": "image_url", "image_url": {"url": _data_url(job.picture)}},
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


def _own(job: Job, whole: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": job.prompt, "max_tokens": job.max_tokens, "temperature": job.temperature}
    body |= {} if whole else {"stream": True}
    return body if job.picture is None else body | {"image": _data_url(job.picture)}


def _data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
