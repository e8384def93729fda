"""Clients that leave at random moments: what they asked for ends at once, and nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from contextlib import suppress

from benchmarks.proof import bodies, images
from benchmarks.proof.observer import observing
from benchmarks.proof.report import Report, milliseconds, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import IMAGE, TEXT, OwnCpu, ask, chat, request

EVERY = 0.04  # seconds between two clients
LONGEST_STAY = 1.5
TOKENS = 1500
NOTICED = 0.1  # seconds in which a closed connection is noticed
PREPARING = 0.2  # seconds in which the work of preparing ends
STEPS = 3
BEGUN_WITHIN = 5.0
NOTHING = "nothing was in flight that its client could have left"
WATCHED = 20  # clients whose last tokens are counted


def requests(number: int, client: str) -> dict[str, bytes]:
    """Return what a client may have sent of its request when it leaves."""
    whole = request(TEXT, json.dumps({"prompt": f"Listing {number}", "max_tokens": TOKENS}).encode(), client)
    image = request(IMAGE, bodies.upload(images.encoded("JPEG", (1600, 1200))), client, bodies.MULTIPART)
    return {
        "nothing": b"",
        "half a line": b"POST /api/v1/te",
        "half a head": whole[:60],
        "half a body": whole[:-10],
        "half an upload": image[: len(image) // 2],
        "half a chunk": request(TEXT, b'10\r\n{"promp', client, Transfer_Encoding="chunked"),
        "a request": whole,
        "a stream": chat(f"Listing {number}", TOKENS, client),
        "four streams": chat(f"Listing {number}", TOKENS, client, n=4),
        "an image": image,
        "a large image": request(IMAGE, bodies.upload(images.webp_bomb((4000, 3000))), client, bodies.MULTIPART),
        "a long prompt": chat("word " * 3000, TOKENS, client),
        "a batch": request("/api/v1/text/batch", json.dumps({"prompts": ["a b c"] * 30}).encode(), client),
    }


async def leave(port: int, number: int) -> None:
    """Connect, send something, stay for a while, and leave in one of several ways."""
    chance = random.Random(number)
    kinds = requests(number, f"10.0.{number % 50}.1")
    data = kinds[chance.choice([*kinds])]
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        await asyncio.sleep(chance.random() ** 2 * LONGEST_STAY)
        end = chance.choice(("close", "reset", "half close"))
        if end == "half close":
            writer.write_eof()
            await asyncio.sleep(chance.random())
        _close(writer, reset=end == "reset")


async def _crowd(port: int, number: int) -> None:
    tasks = []
    for index in range(number):
        tasks.append(asyncio.create_task(leave(port, index)))
        await asyncio.sleep(EVERY)
    await asyncio.gather(*tasks)


def run(size: Size) -> Report:
    """Let a crowd come and leave, then measure how soon the work of single ones ends."""
    report = Report("leavers", "work for the gone ends within 3 steps, and nothing of it is left")
    cpu = OwnCpu()
    with serving(size.model) as service:
        asyncio.run(_crowd(service.port, min(60, size.leavers)))  # every thread and helper has been at work
        service.seconds_until_quiet()
        before = service.footprint()
        with observing(service, stream=False) as seen:
            asyncio.run(_crowd(service.port, size.leavers))
            quiet = service.seconds_until_quiet()
        report.tried, report.lost = size.leavers, 0 if quiet is not None else int(service.in_flight)
        report.check("seconds until nothing is in flight", quiet, 1)
        _check_nothing_left(report, service, before.sockets, before.processes)
        _check_last_steps(report, service)
        after = asyncio.run(ask(service.port, request(TEXT, b'{"prompt":"hi","max_tokens":5}')))
        report.check("the next request works", after.complete, 1, at_least=True)
        report.check("the process lives", service.alive, 1, at_least=True)
        seen.judge(report, service)
    report.client_cpu = cpu.share
    return report


def _check_nothing_left(report: Report, service: Service, sockets: int, processes: int) -> None:
    until = time.monotonic() + 10  # connections that were closed by us wait a while for their client's last bytes
    while (left := service.footprint()).sockets > sockets and time.monotonic() < until:
        time.sleep(0.2)
    report.check("sockets left", left.sockets - sockets, 0)
    report.check("processes left", left.processes - processes, 0)


def _check_last_steps(report: Report, service: Service) -> None:
    """Measure single clients: how long their tokens go on, against the time of a step."""
    for streaming in (True, False):
        kind = "stream" if streaming else "answer in one piece"
        found = [_end_of_one(service, number, streaming) for number in range(WATCHED)]
        for one in found:
            report.count(None if one else f"{kind}: {NOTHING}")
        ends, step = [one[0] for one in found if one], [one[1] for one in found if one]
        usual = percentile(step, 50) or 0.0
        report.notes[f"step of a {kind}, ms"] = milliseconds(usual)
        report.check(
            f"{kind}: from leaving to its last step, ms",
            milliseconds(percentile(ends, 100)),
            1e3 * (NOTICED + STEPS * usual),
        )
    of_images = [_end_of_image(service, number) for number in range(WATCHED)]
    for seconds in of_images:
        report.count(f"image: {NOTHING}" if seconds is None else None)
    report.check(
        "image: from leaving to the end of its work, ms", milliseconds(percentile(of_images, 100)), 1e3 * PREPARING
    )


def _end_of_one(service: Service, number: int, streaming: bool) -> tuple[float, float] | None:
    """Return the seconds from leaving until the model is idle, and those of a step; None with nothing to leave."""
    with _asking(service, chat(f"q{number}", TOKENS, stream=streaming)):
        began, steps = time.perf_counter(), service.total("avito_ai_steps_total")
        time.sleep(0.1)
        steps = service.total("avito_ai_steps_total") - steps
        step = (time.perf_counter() - began) / max(1.0, steps)
        if not service.in_flight:
            return None
    return _seconds_until_idle(service), step


def _end_of_image(service: Service, number: int) -> float | None:
    """Return the seconds from leaving, while a large image is decoded, until nothing is in flight; None as above."""
    data = request(IMAGE, bodies.upload(images.scan_bomb(60)), f"10.3.{number}.1", bodies.MULTIPART)
    with _asking(service, data) as connection:
        if not service.in_flight:
            return None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return _seconds_until_idle(service)


def _asking(service: Service, data: bytes) -> socket.socket:
    """Return a connection whose request is in flight, if it gets there in time."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    connection.sendall(data)
    until = time.perf_counter() + BEGUN_WITHIN
    while not service.in_flight and time.perf_counter() < until:
        pass
    return connection


def _seconds_until_idle(service: Service) -> float:
    began = time.perf_counter()
    while service.in_flight and time.perf_counter() - began < 30:
        pass
    return time.perf_counter() - began


def _close(writer: asyncio.StreamWriter, reset: bool) -> None:
    """Close at once; reset: so that the other end is told nothing but that."""
    own = writer.get_extra_info("socket")
    if reset:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
