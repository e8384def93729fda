"""The client of the proof: what it makes of answers, good and bad."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from benchmarks.proof import bodies, images, traffic
from benchmarks.proof.bodies import BOUNDARY
from benchmarks.proof.traffic import CHAT, TEXT, Answer, ask, chat, closed_loop, open_loop, request
from engine.errors import ServiceError
from engine.text.images import check_header
from tests.benchmarks.harness.scripted_server import scripted

EVENTS = [{"delta": {"role": "assistant", "content": ""}}, {"delta": {"content": "a"}}, {"delta": {"content": "b"}}]
STREAM = [f"data: {json.dumps({'choices': [event]}, separators=(',', ':'))}\n\n".encode() for event in EVENTS]


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def answer_to(status: int, body: bytes) -> Answer:
    with scripted(status, body) as server:
        return asyncio.run(ask(port(server.address), chat("hi", 5)))


def test_a_stream_is_complete_with_its_end() -> None:
    """Pieces of text are counted, the role before them is not; without its end a stream is cut off."""
    whole = answer_to(200, b"".join(STREAM) + b"data: [DONE]\n\n")
    assert (whole.status, whole.tokens, whole.complete, whole.typed) == (200, 2, True, True)
    assert whole.first is not None
    assert not answer_to(200, b"".join(STREAM)).complete


def test_an_error_in_a_stream_is_no_success() -> None:
    """Who was told 200 and then an error did not get its answer."""
    told = answer_to(200, b"".join(STREAM) + b'data: {"error":{"code":"overloaded","message":"x"}}\n\ndata: [DONE]\n\n')
    assert (told.complete, told.code) == (False, "overloaded")


@pytest.mark.parametrize(
    ("status", "body", "typed"),
    [
        (503, b'{"error": "overloaded", "message": "x"}', True),
        (400, b'{"error":{"message":"x","code":null}}', True),
        (400, b"<html>Bad Request</html>", False),
        (500, b'{"error": "internal_error", "message": "x"}', False),
    ],
)
def test_errors_are_typed_or_not(status: int, body: bytes, typed: bool) -> None:
    """An error of the service's shape is typed; a page of a library is not, and a 500 is nobody's."""
    assert answer_to(status, body).typed is typed


@pytest.mark.parametrize(
    ("head", "sent", "whole"),
    [
        (b"Content-Length: 16", b'{"success":true}', True),
        (b"Content-Length: 17", b'{"success":true}', False),
        (b"Transfer-Encoding: chunked", b'10\r\n{"success":true}\r\n0\r\n\r\n', True),
        (b"Transfer-Encoding: chunked", b'10\r\n{"success":true}\r\n', False),
        (b"Connection: close", b'{"success":true}', True),
    ],
)
def test_an_answer_that_is_cut_off_is_no_success(head: bytes, sent: bytes, whole: bool) -> None:
    """The connection ends without a word, as it does where a process is killed in the middle of an answer."""

    async def answered() -> Answer:
        async def cut_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nX-Request-Id: r\r\n" + head + b"\r\n\r\n" + sent)
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(cut_off, "127.0.0.1", 0) as server:
            return await ask(server.sockets[0].getsockname()[1], request(TEXT, b"{}"))

    answer = asyncio.run(answered())
    assert (answer.status, answer.whole, answer.typed, answer.complete) == (200, whole, whole, whole)


def test_no_answer_is_trouble_and_never_raised() -> None:
    """A port on which nobody listens."""
    answer = asyncio.run(ask(1, request(TEXT, b"{}")))
    assert (answer.status, answer.typed, bool(answer.trouble)) == (0, False, True)


def test_loops_begin_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open loop begins its rate whatever is answered, a closed one the next request after the last."""
    begun: list[int] = []

    async def never_soon(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0.2)

    asyncio.run(open_loop(100, 0.1, never_soon))
    assert begun == list(range(10))
    begun.clear()
    asyncio.run(closed_loop(3, 0.0, never_soon))
    assert begun == []
    clock = iter([0.0] * 4 + [0.05, 0.2, 0.2, 0.2])  # the first client is back in time for another
    monkeypatch.setattr(traffic, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    asyncio.run(closed_loop(3, 0.1, never_soon))
    assert begun == [0, 1, 2, 3]


def test_hostile_bodies_are_as_large_as_they_say() -> None:
    """Each kind is a request of about the size that was asked for, and most of them are JSON."""
    made = dict(bodies.large(100_000))
    assert len(made) > 12
    assert all(80_000 < len(body) < 230_000 for body in made.values())
    assert json.loads(made["tools"])["tools"]
    every = [data for _, data in (*bodies.schema_requests(2), *bodies.framings())]
    assert all(b"\r\n\r\n" in data for data in every)
    assert request(CHAT, b"{}", "10.1.2.3").count(b"10.1.2.3") == 1
    assert bodies.upload(b"x").count(BOUNDARY.encode()) == 4


def test_bombs_pass_the_check_of_their_header() -> None:
    """What is to be stopped while it is decoded is not stopped before; what is damaged is refused or is an image."""
    for image in (images.scan_bomb(3, (64, 64)), images.webp_bomb((64, 64)), images.png_bomb((64, 64))):
        assert check_header(image).width == 64
    assert check_header(images.frames_bomb(3)).width == 200
    for image in (*images.lying_headers(), *images.damaged(40)):
        try:
            check_header(image)
        except ServiceError:
            continue
