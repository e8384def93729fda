"""More connections that are slow than the service has threads: nobody else waits for them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress

from benchmarks.proof.observer import observing
from benchmarks.proof.report import Report, milliseconds, percentile
from benchmarks.proof.service import DEADLINE, Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import CHAT, IMAGE, TEXT, Answer, OwnCpu, ask, request

DRIP_EVERY = 1.0  # seconds
GOOD_EVERY = 0.15
GOOD = request(TEXT, b'{"prompt":"hi","max_tokens":2}', "10.9.9.9")
JSON_HEAD = f"POST {TEXT} HTTP/1.1\r\nHost: localhost\r\n".encode()
LONG_UPLOAD = request(IMAGE, b"--BB\r\n", kind="multipart/form-data; boundary=BB", Content_Length="17000000")
STREAM = json.dumps({"model": "avibe", "stream": True, "max_tokens": 2000, "ignore_eos": True, "messages": [
    {"role": "user", "content": "hi"}]}).encode()  # fmt: skip
PIPELINED = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 40


def _from(number: int, data: bytes) -> bytes:
    """Let each connection be one of another client."""
    return data.replace(b"X-Forwarded-For: 10.0.0.1", f"X-Forwarded-For: 10.{number // 250}.{number % 250}.2".encode())


# What each kind sends first, and then once a second.
KINDS: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "heads": (JSON_HEAD, b"X-a: b\r\n"),
    "heads without an end": (b"GET /%41" + b"a\xff" * 31_000, b""),
    "bodies": (request(TEXT, b"{", Content_Length="900000"), b" "),
    "bodies of 60 MB": (request(CHAT, b'{"model":"', Content_Length="60000000"), b"x" * 10_000),
    "uploads at the slowest rate": (LONG_UPLOAD, b"x" * 16_500),
    "chunks": (JSON_HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "readers of pages": (PIPELINED, b""),
    "readers of streams": (request(CHAT, STREAM), b""),
}


def run(size: Size) -> Report:
    """Hold connections of each kind, and watch everybody else."""
    report = Report("slow", "slow heads, bodies and readers hold up nobody")
    cpu = OwnCpu()
    # Half of the time they are held; then those that have not come to an end are given up, all at once.
    with serving(size.model, SEND_TIMEOUT=str(max(2, int(size.seconds / 2)))) as service:
        for name, (first, then) in KINDS.items():
            with observing(service, stream=False) as seen:
                answers = asyncio.run(_hold(service, size, first, then, needs_model="streams" not in name))
            for answer in answers:
                report.count(None if answer.complete else f"a good request beside {name}: {answer.status or 'none'}")
            worst = percentile((answer.total for answer in answers), 99)
            report.notes[name] = {"good_requests": len(answers), "p99_ms": milliseconds(worst)}
            report.check(f"{name}: probes p99.9, ms", milliseconds(percentile(seen.all_probes, 99.9)), 100)
            report.check(f"{name}: probes that failed", seen.failed, 0)
            report.check(f"{name}: seconds until nothing is in flight", service.seconds_until_quiet(), 5)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report


async def _hold(service: Service, size: Size, first: bytes, then: bytes, needs_model: bool) -> list[Answer]:
    """Hold the connections open for the time of a load; return the answers to good requests beside them.

    needs_model: False where the connections take every slot of the model, as they may.
    """
    held = [_connect(service.port, _from(number, first)) for number in range(size.connections)]
    answers: list[Answer] = []

    async def good() -> None:
        while True:
            answers.append(await ask(service.port, GOOD, DEADLINE))
            await asyncio.sleep(GOOD_EVERY)

    jobs = [asyncio.create_task(_drip(held, then)), *([asyncio.create_task(good())] if needs_model else [])]
    await asyncio.sleep(size.seconds)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    for connection in held:
        connection.close()
    return answers


def _connect(port: int, first: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    _quietly(lambda: connection.send(first))
    return connection


async def _drip(held: list[socket.socket], data: bytes) -> None:
    while data:
        await asyncio.sleep(DRIP_EVERY)
        for connection in held:
            _quietly(lambda: connection.send(data))  # noqa: B023


def _quietly(send: Callable[[], object]) -> None:
    with suppress(OSError):  # full, or closed by the service
        send()
