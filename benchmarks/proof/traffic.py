"""A minimal HTTP client on asyncio for many connections at once, which sees also what no well-behaved client sees."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

CHAT, TEXT, IMAGE = "/v1/chat/completions", "/api/v1/text/generate", "/api/v1/image/analyze"
JSON = "application/json"
PIECE_BYTES = 256 * 1024
PATIENCE = 120.0
CHUNK = re.compile(rb"\r\n[0-9a-fA-F]+\r\n")  # between two chunks of a body
LENGTH = re.compile(rb"\r\ncontent-length: ?(\d+)\r\n", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: ?chunked\r\n", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"
TYPED = re.compile(rb'"error": ?(?:"\w+"|\{)')


@dataclass(slots=True)
class Answer:
    """What came of one request. Times in seconds from the moment its head was sent, None for what never came.

    status: 0 without an answer; tokens: pieces of text; whole: the body has come to the end that its head told; code:
    the error that the body told; trouble: the connection's end, where it was none that HTTP has; numbered: whether it
    has a request id, as the service's own pages have.
    """

    status: int = 0
    head: float | None = None
    first: float | None = None
    total: float = 0.0
    tokens: int = 0
    whole: bool = False
    complete: bool = False
    retry_after: bool = False
    numbered: bool = False
    code: str = ""
    trouble: str = ""

    @property
    def typed(self) -> bool:
        """Whether it is a whole success, or an error of the service's own shape that is no fault of the service."""
        good = 200 <= self.status < 300 and not self.code
        own = bool(self.code) or self.numbered
        return self.whole and (good or (own and self.status != 500))


def request(
    path: str, body: bytes | None = None, client: str = "10.0.0.1", kind: str = JSON, method: str = "", **fields: str
) -> bytes:
    """Return a whole request on a connection of its own. fields: further header fields, `_` for `-`."""
    head = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    head.append(f"X-Forwarded-For: {client}")
    if body is not None:
        head.append(f"Content-Type: {kind}")
        if "Transfer_Encoding" not in fields and "Content_Length" not in fields:
            head.append(f"Content-Length: {len(body)}")
    head += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (body or b"")


def chat(prompt: str, tokens: int, client: str = "10.0.0.1", **fields: object) -> bytes:
    """Return a streaming chat request whose answer has all its tokens."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": "avibe", "stream": True, "max_tokens": tokens, "ignore_eos": True, "messages": messages}
    return request(CHAT, json.dumps(body | fields).encode(), client)


async def ask(port: int, data: bytes, patience: float = PATIENCE, source: str | None = None) -> Answer:
    """Send a request and read its answer to the end. Never raises. source: the address that it is to come from."""
    answer, writer = Answer(), None
    began = time.perf_counter()
    try:
        async with asyncio.timeout(patience):
            local = (source, 0) if source else None
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=local)
            began = time.perf_counter()
            sending = asyncio.create_task(send(writer, data))
            try:
                await _read(reader, answer, began)
            finally:
                sending.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await sending
    except (OSError, EOFError, TimeoutError) as error:
        answer.trouble = type(error).__name__
    finally:
        answer.total = time.perf_counter() - began
        if writer is not None:
            writer.transport.abort()
    return answer


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send in pieces, as fast as they are taken."""
    for start in range(0, len(data), PIECE_BYTES):
        writer.write(data[start : start + PIECE_BYTES])
        await writer.drain()


async def _read(reader: asyncio.StreamReader, answer: Answer, began: float) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    answer.head = time.perf_counter() - began
    answer.status = int(head[9:12])
    answer.numbered = b"\nx-request-id:" in head.lower()
    answer.retry_after = b"\nretry-after:" in head.lower()
    end, size = b"", 0
    while piece := await reader.read(65536):
        # A role comes first in a stream of chat, without any content.
        told = piece.count(b'"content":"') + piece.count(b'"text":"') - piece.count(b'"content":""')
        if told and answer.first is None:
            answer.first = time.perf_counter() - began
        answer.tokens += told
        end, size = (end + piece)[-4000:], size + len(piece)
        answer.whole = _is_whole(head, end, size)
    answer.whole = _is_whole(head, end, size, ended=True)
    end = CHUNK.sub(b"", end)
    good = b"data: [DONE]" in end or b'"success":true' in end.replace(b" ", b"")
    answer.complete = answer.status == 200 and answer.whole and good
    if found := TYPED.search(end):
        code = re.search(rb'"(?:code|error)": ?"(\w+)"', end)
        answer.code = code[1].decode() if code else found[0].decode()
    answer.complete = answer.complete and not answer.code


def _is_whole(head: bytes, end: bytes, size: int, ended: bool = False) -> bool:
    """Return whether a body has come to its end. ended: the connection has, which ends a body of no told length."""
    if length := LENGTH.search(head):
        return size == int(length[1])
    return end.endswith(LAST_CHUNK) if CHUNKED.search(head) else ended


async def closed_loop(clients: int, seconds: float, one: Callable[[int], Awaitable[None]]) -> None:
    """Let each of `clients` begin its next request after its last, until the seconds are over. one: takes a number."""
    until, number = time.perf_counter() + seconds, iter(range(10**9))

    async def client() -> None:
        while time.perf_counter() < until:
            await one(next(number))

    await asyncio.gather(*(client() for _ in range(clients)))


async def open_loop(rate: float, seconds: float, one: Callable[[int], Awaitable[None]]) -> None:
    """Begin `rate` requests a second, whatever becomes of them, and wait for all. one: takes a request's number.

    Those that a busy machine begins late are begun all the same.
    """
    began, tasks = time.perf_counter(), list[asyncio.Task[None]]()
    while len(tasks) < int(seconds * rate):
        due = min(time.perf_counter() - began, seconds)
        for number in range(len(tasks), int(due * rate)):
            tasks.append(asyncio.ensure_future(_awaited(one, number)))
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)


async def _awaited(one: Callable[[int], Awaitable[None]], number: int) -> None:
    await one(number)


class OwnCpu:
    """The share of a core that this process has taken since it was made."""

    def __init__(self) -> None:
        self._process, self._began = psutil.Process(), time.monotonic()
        self._before = self._spent()

    @property
    def share(self) -> float:
        """From 0 to 1: a load generator near 1 has measured itself."""
        return (self._spent() - self._before) / max(1e-9, time.monotonic() - self._began)

    def _spent(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system
