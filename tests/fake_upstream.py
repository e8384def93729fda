"""An OpenAI-compatible server on a real socket that answers by a script, and misbehaves in every way that it is told.

It imports nothing of the service, so that it runs as a process of its own (`python tests/fake_upstream.py`) beside one
that is measured. Every connection is closed when the fault says so, and every request is kept to be looked at.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

WORDS = "The quick brown fox jumps over the lazy dog and sleeps".split()
HTML = b"<!doctype html><html><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass
class Heard:
    """One request that came. left: its client closed the connection before the answer ended."""

    path: str
    headers: dict[str, str]
    body: Any
    left: bool = False
    done: bool = False


@dataclass
class Script:
    """What the next requests are answered with.

    words: of the text; gap: seconds between two events; wait: before the first; deltas: whole deltas in place of words;
    finish: the finish reason; usage: whether it is told; faults: names of faults for the next requests, in order, ""
    for a good answer; rate: the share of further requests with a random one of `random_faults`; end_apart: seconds
    between [DONE] and the end of the response; raw: the parts of the stream as they are, in place of all of it;
    refusal: the parts of the body of a status that is a fault; moved: the address that probes are sent on to; ending:
    how what consists of parts ends: "", "open" if it does not, "cut" if the connection is closed; kind: the content
    type of streams.
    """

    words: list[str] = field(default_factory=lambda: [f"{word} " for word in WORDS])
    gap: float = 0.0
    wait: float = 0.0
    deltas: list[dict[str, Any]] | None = None
    finish: str = "stop"
    usage: bool = True
    logprobs: bool = False
    faults: list[str] = field(default_factory=list)
    always: str = ""
    rate: float = 0.0
    random_faults: tuple[str, ...] = ("reset", "stall", "500", "429", "nonsense", "half")
    retry_after: str = "0"
    end_apart: float = 0.0
    raw: list[bytes] | None = None
    refusal: list[bytes] | None = None
    moved: str = ""
    ending: str = ""
    kind: str = "text/event-stream"


def event(value: Any) -> bytes:
    """Return one event, whose data is a text or JSON."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(value: Any) -> bytes:
    return _chunk(event(value))


def _response(status: int, body: bytes, kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


async def _left(reader: asyncio.StreamReader) -> None:
    """Return once the client has closed its connection."""
    while not reader.at_eof():
        await asyncio.sleep(0.02)


HEAD = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n"


class FakeUpstream:
    """The server. url: its base URL; script: may be changed at any time; heard: the requests so far; tls: what it
    shows its certificate with, None for plain HTTP.
    """

    def __init__(self, script: Script | None = None, seed: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.script, self._tls = script or Script(), tls
        self.heard: list[Heard] = []
        self.probes = 0
        self.probed_with: dict[str, str] = {}  # the headers of the last one
        self.connections = 0  # that are open
        self.accepted = 0  # connections so far
        self.down = False  # every connection is closed at once
        self.port = 0
        self._random = random.Random(seed)
        self._changed = threading.Condition()  # notified at every change of what is seen here
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}/v1"

    # --- running ---

    async def open(self, port: int = 0) -> None:
        """Listen."""
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port or self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no longer, and break every connection off."""
        await self.kill()
        if self._server is not None:
            self._server.close()

    async def kill(self) -> None:
        """Break every connection off, and each new one at once, as the system does for a killed process."""
        self.down = True
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop_listening(self) -> None:
        """Refuse every connection from now on, and end those that are there."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    def do(self, work: Callable[[], Any]) -> Any:
        """Have a coroutine function run in the server's thread, and wait for it."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)

    def wait_for(self, condition: Callable[[FakeUpstream], object], seconds: float = 60.0) -> None:
        """Wait until a condition holds; fail the test if it does not in time."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), seconds), "the server never came to that"

    # --- serving ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        self.connections += 1
        self.accepted += 1
        self._writers.add(writer)
        try:
            while not self.down and await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            self._writers.discard(writer)
            writer.close()
            self._tell()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if method == "GET":
            self.probes += 1
            self.probed_with = headers
            status = 500 if self.script.always == "500" else 307 if self.script.moved else 200
            where = f"Location: {self.script.moved}\r\n" if status == 307 else ""
            writer.write(_response(status, b'{"object":"list","data":[]}', extra=where))
            return True
        heard = Heard(path, headers, json.loads(body))
        self.heard.append(heard)
        self._tell()
        gone = asyncio.ensure_future(_left(reader))
        answering = asyncio.ensure_future(self._answer(heard, writer, self._fault()))
        await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            heard.left = True
            answering.cancel()
            self._tell()
            return False
        heard.done = True
        self._tell()
        gone.cancel()
        return answering.result()

    def _fault(self) -> str:
        script = self.script
        if script.faults:
            return script.faults.pop(0)
        if script.always:
            return script.always
        return self._random.choice(script.random_faults) if self._random.random() < script.rate else ""

    async def _answer(self, heard: Heard, writer: asyncio.StreamWriter, fault: str) -> bool:
        """Answer; return whether the connection may serve another request."""
        script = self.script
        if fault == "reset":
            writer.transport.abort()
            return False
        if fault == "silent":
            await asyncio.sleep(3600)
        if fault.isdecimal():
            wait = f"Retry-After: {script.retry_after}\r\n" if fault in ("429", "503") and script.retry_after else ""
            where = "Location: http://127.0.0.1:1/elsewhere\r\n" if fault.startswith("3") else ""
            told = {"error": {"message": "secret words of the server", "param": "messages", "code": fault}}
            if script.refusal is not None:
                head = f"HTTP/1.1 {fault} X\r\nTransfer-Encoding: chunked\r\n{wait}\r\n"
                return await self._parts(writer, head.encode(), script.refusal)
            writer.write(_response(int(fault), json.dumps(told).encode(), extra=wait + where))
            return True
        if fault == "html":
            writer.write(_response(200, HTML, "text/html"))
            return True
        if fault == "too long":
            told = {"error": {"message": "This model's maximum context length is 10 tokens."}}
            writer.write(_response(400, json.dumps(told).encode()))
            return True
        await asyncio.sleep(script.wait)
        head = HEAD.format(script.kind).encode()
        if script.raw is not None:
            return await self._parts(writer, head, script.raw)
        writer.write(head)
        sent = 0
        async for data in self._events(heard.body):
            if fault == "nonsense" and sent == 2:
                data = _event("{no json")
            if fault == "error event" and sent == 2:
                data = _event({"error": {"message": "secret words of the server"}})
            if fault == "half" and sent == 3:
                writer.transport.abort() if self._random.random() < 0.5 else writer.close()
                return False
            if fault == "cut" and sent == 3:
                writer.write(b"0\r\n\r\n")  # a whole response with half an answer
                return True
            if fault == "stall" and sent == 3:
                await asyncio.sleep(3600)
            writer.write(data)
            await writer.drain()
            sent += 1
        if fault == "no done":
            writer.write(b"0\r\n\r\n")
            return True
        writer.write(_event("[DONE]"))
        await asyncio.sleep(script.end_apart)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _parts(self, writer: asyncio.StreamWriter, head: bytes, parts: list[bytes]) -> bool:
        """Send a response of parts; return whether the connection may serve another request."""
        writer.write(head)
        for part in parts:
            writer.write(_chunk(part))
            await writer.drain()
            await asyncio.sleep(self.script.gap)
        if self.script.ending == "open":
            await asyncio.sleep(3600)
        if self.script.ending == "cut":
            writer.close()
            return False
        writer.write(b"0\r\n\r\n")
        return True

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        script, chat = self.script, "messages" in body
        deltas = script.deltas or [{"content": word} for word in script.words]
        for number, delta in enumerate(deltas):
            if number and script.gap:
                await asyncio.sleep(script.gap)
            choice: dict[str, Any] = {"index": 0, "finish_reason": None}
            choice |= {"delta": delta} if chat else {"text": delta["content"]}
            if script.logprobs:
                token = delta["content"]
                scored = {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []}
                choice["logprobs"] = {"content": [scored]}
            yield _event({"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})
        last = {"index": 0, "finish_reason": script.finish} | ({"delta": {}} if chat else {"text": ""})
        yield _event({"id": "x", "choices": [last]})
        if script.usage:
            usage = {"prompt_tokens": 11, "completion_tokens": len(deltas), "total_tokens": 11 + len(deltas)}
            yield _event({"id": "x", "choices": [], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 3}}})

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


@contextmanager
def fake_upstream(
    script: Script | None = None, seed: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[FakeUpstream]:
    """Run a server in a thread of its own."""
    server, begun = FakeUpstream(script, seed, tls), threading.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.open())
        loop.call_soon(begun.set)
        loop.run_forever()
        loop.run_until_complete(server.close())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0.01))  # in which the sockets are closed
        loop.close()

    thread = threading.Thread(target=run, name="fake-upstream", daemon=True)
    thread.start()
    assert begun.wait(30)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)


async def _main(port: int, settings: dict[str, Any]) -> None:
    server = FakeUpstream(Script(**settings))
    await server.open(port)
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}))
