"""Single requests that once froze or ended the service: each gets a typed answer in time and harms nobody else."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import time
from collections.abc import Iterator

from benchmarks.proof import bodies, images
from benchmarks.proof.bodies import MULTIPART
from benchmarks.proof.observer import Seen, observing
from benchmarks.proof.report import Report
from benchmarks.proof.service import DEADLINE, Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import CHAT, IMAGE, TEXT, Answer, OwnCpu, ask, request

COUNT = "/v1/messages/count_tokens"
GRACE = 1.0  # seconds beyond the deadline
QUIET_SECONDS = 5.0
AT_ONCE = 6  # of the images that take the most memory
MANY_AT_ONCE = 64  # of the schemas that take long
SMALL_AT_ONCE = 40
COUNTED_AT_ONCE = 90  # of the questions whose tokens are counted, of one client
PARTS = [{"type": "text", "text": ""}] * 19_000  # a third of a second of work, in 1.5 KB
GOOD = request(TEXT, b'{"prompt":"hi","max_tokens":2}', "10.9.9.9")
Attack = tuple[str, list[bytes]]  # what it is, and the requests that are sent together


def attacks(size: Size) -> Iterator[Attack]:
    """Yield each kind of hostile request."""
    for name, body in bodies.large():
        yield f"60 MB: {name}", [request(TEXT if name == "digits as text" else CHAT, body)]
    for name, body in bodies.small():
        yield name, [request(TEXT if b'"prompt"' in body else CHAT, body)]
    for name, data in itertools.chain(bodies.schema_requests(8 * size.rounds), bodies.forms(), bodies.framings()):
        yield name, [data]
    clients = [[*bodies.long_schemas(number)] for number in range(MANY_AT_ONCE)]
    for kind in zip(*clients, strict=True):
        requests = [request(CHAT, body, f"10.2.{number}.1") for number, (_, body) in enumerate(kind)]
        yield f"schemas at once: {kind[0][0]}", requests
    yield "counts at once", [_counted()] * COUNTED_AT_ONCE
    yield from _image_attacks(size)


def _counted() -> bytes:
    body = {"model": "avibe", "messages": [{"role": "user", "content": PARTS}]}
    return request(COUNT, gzip.compress(json.dumps(body).encode()), "10.3.0.1", Content_Encoding="gzip")


def _image_attacks(size: Size) -> Iterator[Attack]:
    for name, image, together in (
        ("scan bomb", images.scan_bomb(), 1),
        ("scan bombs at once", images.scan_bomb(), AT_ONCE),
        ("WebP bombs at once", images.webp_bomb(), AT_ONCE),
        ("PNG bombs at once", images.png_bomb(), AT_ONCE),
        ("comment bomb", images.text_bomb(), 1),
        ("profile bomb", images.profile_bomb(), 1),
        ("bitmap of short runs", images.runs_bomb(), 1),
        ("frames", images.frames_bomb(), 1),
        ("small images at once", images.encoded("PNG"), SMALL_AT_ONCE),
    ):
        yield name, [_upload(image, f"10.1.{number}.1") for number in range(together)]
    for image in images.lying_headers():
        yield "image with a false header", [_upload(image)]
    for image in images.damaged(25 * size.rounds):
        yield "damaged image", [_upload(image)]


def run(size: Size) -> Report:
    """Send each kind to one service."""
    report = Report("hostile", "one request, whatever it is, has a typed answer in time, and others notice nothing")
    prepared = [*attacks(size)]  # what builds 60 MB keeps a core busy, of which the others would notice something
    cpu, began = OwnCpu(), dict[str, float]()
    with serving(size.model, SEND_TIMEOUT=f"{DEADLINE / 2:g}") as service:
        with observing(service) as quiet:
            time.sleep(QUIET_SECONDS)
        with observing(service) as seen:
            while prepared:
                name, requests = prepared.pop(0)
                began[name] = min(began.get(name, time.monotonic()), time.monotonic())
                attempt(service, report, name, requests)
                if not service.alive:
                    break
        report.check("the process lives", service.alive, 1, at_least=True)
        if service.alive:
            report.check("seconds until nothing is in flight", service.seconds_until_quiet(), 1)
        seen.judge(report, service, quiet)
        report.notes["late_during"] = _late(seen, began)
    report.client_cpu = cpu.share
    return report


def _late(seen: Seen, began: dict[str, float]) -> dict[str, dict[str, float]]:
    """Return the longest probe and gap of others, in seconds, during each kind that had long ones."""
    found: dict[str, dict[str, float]] = {}
    for moment, what, seconds in seen.late:
        name = max((name for name in began if began[name] <= moment), key=began.__getitem__, default="the beginning")
        worst = found.setdefault(name, {})
        worst[what] = max(worst.get(what, 0.0), seconds)
    return found


def attempt(service: Service, report: Report, name: str, requests: list[bytes]) -> None:
    """Send requests together, and a good one behind them."""
    for answer in asyncio.run(_together(service.port, requests)):
        report.count(_trouble(name, answer))
    after = asyncio.run(ask(service.port, GOOD, DEADLINE + GRACE))
    report.count(None if after.complete else f"the next request after {name}: {after.status} {after.trouble}")


async def _together(port: int, requests: list[bytes]) -> list[Answer]:
    return await asyncio.gather(*(ask(port, data, 4 * DEADLINE) for data in requests))


def _trouble(name: str, answer: Answer) -> str | None:
    """Return what is wrong with the answer to a hostile request, None if nothing is."""
    if answer.total > DEADLINE + GRACE:
        return f"{name}: {answer.status or 'no answer'} after the deadline"
    if not answer.typed:
        return f"{name}: {answer.status} {answer.code or 'untyped'} {answer.trouble}".rstrip()
    return None


def _upload(image: bytes, client: str = "10.0.0.1") -> bytes:
    return request(IMAGE, bodies.upload(image), client, MULTIPART)
