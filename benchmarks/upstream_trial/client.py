"""A client that asks for a whole answer, or reads a stream with the time of each event, and may leave in its middle."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 90.0  # seconds without a byte
HEADERS = {"Content-Type": "application/json", "Connection": "close"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. body: its JSON, or its text where it is none."""

    status: int
    body: Any


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream. at: when it came, by time.monotonic; data: its JSON, None for [DONE]."""

    at: float
    data: Any


class Stream:
    """A streamed answer, whose events are read once. body: what came instead, with a status other than 200."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self._response = response
        self.body = None if self.status == 200 else _parsed(response.read())

    def __iter__(self) -> Iterator[Event]:
        """Yield the events. Raises OSError or HTTPException where the connection breaks off."""
        while line := self._response.readline():
            if line.startswith(b"data:"):
                data = line[5:].strip()
                yield Event(time.monotonic(), None if data == b"[DONE]" else json.loads(data))


def post(address: str, path: str, body: Mapping[str, Any], timeout: float = TIMEOUT) -> Answer:
    """Return the answer to one request. address: http://host:port. Raises OSError or HTTPException."""
    with _sent(address, "POST", path, body, timeout) as response:
        return Answer(response.status, _parsed(response.read()))


def get(address: str, path: str, timeout: float = TIMEOUT) -> Answer:
    """Return what is at a path. Raises OSError or HTTPException."""
    with _sent(address, "GET", path, None, timeout) as response:
        return Answer(response.status, _parsed(response.read()))


@contextmanager
def stream(
    address: str, path: str, body: Mapping[str, Any], timeout: float = TIMEOUT, headers: Mapping[str, str] | None = None
) -> Iterator[Stream]:
    """Ask for a stream; the connection is closed behind the block, whether the answer has ended or not."""
    with _sent(address, "POST", path, {**body, "stream": True}, timeout, headers) as response:
        yield Stream(response)


@contextmanager
def _sent(
    address: str,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    timeout: float,
    headers: Mapping[str, str] | None = None,
) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout)
    response = None
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, HEADERS | dict(headers or {}))
        response = connection.getresponse()
        yield response
    finally:
        if response is not None:
            response.close()  # it holds the socket
        connection.close()


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
