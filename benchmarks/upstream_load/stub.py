"""An OpenAI-compatible server that costs next to nothing: `python -m benchmarks.upstream_load.stub [options]`.

Every POST is answered with a stream of ready-made events: the first after `--first` seconds, the others by its own
rhythm of one each `--gap` seconds, whatever came late. It prints its port, and at its end by how many seconds its
latest event left behind that rhythm, which is its own share of what a client sees late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import sys
from typing import cast

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MODELS = b'{"object":"list","data":[{"id":"avibe","object":"model"}]}'
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    shape = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "avibe", "choices": choices}
    return b"data: " + json.dumps(shape | more, separators=(",", ":")).encode() + b"\n\n"


# Different ones: LiteLLM takes a text that repeats itself for a loop, and breaks off.
PARTS = tuple(_chunk(_event({"content": f"word{number} "})) for number in range(10))


class Stub(asyncio.Protocol):
    """One connection. events: of each answer."""

    latest = 0.0
    requests = 0

    def __init__(self, first: float, gap: float, events: int) -> None:
        self._first, self._gap, self._events = first, gap, events
        self._came = b""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        usage = {"prompt_tokens": 11, "completion_tokens": events, "total_tokens": 11 + events}
        self._opening = HEAD + _chunk(_event({"role": "assistant", "content": ""})) + PARTS[0]
        last = _event({}, "stop") + _event({}, None, choices=[], usage=usage)
        self._end = _chunk(last + b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, _, body = self._came.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if b"\r\n\r\n" not in self._came or (length is not None and len(body) < int(length[1])):
            return
        self._came = b""
        if head.startswith(b"GET"):
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            self._transport.write(answer % (len(MODELS), MODELS))
            return
        Stub.requests += 1
        self._began = self._loop.time() + self._first
        if self._first:
            self._timer = self._loop.call_at(self._began, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if self._gap:
            self._transport.write(self._opening)
            self._wait(1)
        else:
            parts = (PARTS[number % len(PARTS)] for number in range(1, self._events))
            self._transport.write(self._opening + b"".join(parts) + self._end)

    def _wait(self, number: int) -> None:
        self._timer = self._loop.call_at(self._began + number * self._gap, self._next, number)

    def _next(self, number: int) -> None:
        Stub.latest = max(Stub.latest, self._loop.time() - self._began - number * self._gap)
        if number < self._events:
            self._transport.write(PARTS[number % len(PARTS)])
            self._wait(number + 1)
        else:
            self._transport.write(self._end)


async def _main(options: argparse.Namespace) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(
        lambda: Stub(options.first, options.gap, options.events), "127.0.0.1", options.port, backlog=2048
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    print(json.dumps({"latest_s": Stub.latest, "requests": Stub.requests}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first", type=float, default=0.0)
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--events", type=int, default=16)
    asyncio.run(_main(parser.parse_args()))
    sys.exit(0)
