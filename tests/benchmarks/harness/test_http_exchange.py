"""One request and its answer over a transport that only the test drives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.http_answer import BadAnswer, WholeJson
from benchmarks.harness.http_exchange import Exchange
from tests.benchmarks.harness.splitting import split

BODY = json.dumps({"success": True, "data": {"generated_tokens": 7}}).encode()
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:20], BODY[20:]))
    + b"0\r\n\r\n"
)
SIZED = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
UNSIZED = b"HTTP/1.1 200 OK\r\n\r\n" + BODY
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED


class Transport(asyncio.Transport):
    """Keeps what was written, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def exchanged(
    parts: Iterable[bytes], closes: bool = False, error: Exception | None = None
) -> tuple[Exchange, Transport]:
    """Return an exchange that received the parts, and then, if asked for, the end of the connection."""

    async def run() -> tuple[Exchange, Transport]:
        headers = [("Host", "a"), ("Content-Length", "2")]
        exchange = Exchange(h11.Request(method="POST", target="/x", headers=headers), b"{}", WholeJson())
        transport = Transport()
        exchange.connection_made(transport)
        for part in parts:
            exchange.data_received(part)
        if closes:
            exchange.connection_lost(error)
        return exchange, transport

    return asyncio.run(run())


def failure(parts: Iterable[bytes], error: Exception | None = None) -> BaseException | None:
    """Return what an exchange failed with that ended after the parts."""
    return exchanged(parts, closes=True, error=error)[0].over.exception()


def test_the_request_is_sent_when_the_connection_is_made() -> None:
    """Head and body, in HTTP/1.1."""
    _, transport = exchanged([])
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x HTTP/1.1\r\n")
    assert body == b"{}"


@settings(deadline=None)
@given(st.sampled_from([CHUNKED, SIZED, CONTINUED]), st.lists(st.integers(0, 400)))
def test_the_body_is_the_same_however_the_answer_is_split(answer: bytes, offsets: list[int]) -> None:
    """Framing never shows, wherever the network splits it; the connection is closed after the answer."""
    exchange, transport = exchanged(split(answer, offsets))
    assert exchange.over.exception() is None
    assert transport.closed


@settings(deadline=None)
@given(st.integers(0, len(CHUNKED) - 1))
def test_an_incomplete_answer_is_a_failure(length: int) -> None:
    """A connection that closes before the last chunk ended."""
    reason = failure([CHUNKED[:length]] if length else [])
    assert isinstance(reason, BadAnswer)
    assert "middle" in str(reason)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    """Answers in the style of HTTP/1.0 are complete when the server closes."""
    exchange, _ = exchanged([UNSIZED])
    assert not exchange.over.done()
    assert failure([UNSIZED]) is None


def test_what_is_not_http_is_refused() -> None:
    """A wrong port must not look like a fast server."""
    reason = failure([b"SSH-2.0-OpenSSH\r\n\r\n"])
    assert isinstance(reason, BadAnswer)
    assert "not HTTP" in str(reason)


def test_a_broken_connection_is_a_failure() -> None:
    """The error of the system is reported."""
    assert isinstance(failure([CHUNKED[:60]], ConnectionResetError()), ConnectionResetError)


def test_another_status_ends_the_exchange_at_once() -> None:
    """The body of a refusal is not awaited."""
    reason = failure([b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\n"])
    assert isinstance(reason, BadAnswer)
    assert str(reason) == "status 503"


@pytest.mark.parametrize("late", [b"\r\n", b"more"])
def test_what_comes_after_the_answer_is_ignored(late: bytes) -> None:
    """The first end of an exchange counts."""
    assert failure([SIZED, late]) is None
