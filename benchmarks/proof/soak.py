"""Many mixed requests, a third of them bad and a tenth of them left: nothing grows."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress

from benchmarks.proof import bodies, images
from benchmarks.proof.observer import observing
from benchmarks.proof.report import Report
from benchmarks.proof.service import Footprint, Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import CHAT, IMAGE, JSON, TEXT, Answer, OwnCpu, ask, chat, request

AT_ONCE = 12
BAD, LEFT = 0.33, 0.10  # shares
WARM_UP = 0.25  # of all requests, before the first look
LOOKS = 20  # at the footprint, after the warm-up
GROWTH = 0.02
REST_SECONDS = 5.0
PAGES = ("/", "/v1/models", "/api/docs", "/api/openapi.json", "/api/health/ready")


def good(chance: random.Random, client: str) -> bytes:
    """Return a request that is answered 200."""
    number = chance.randrange(10**6)
    match chance.randrange(6):
        case 0:
            return request(TEXT, json.dumps({"prompt": f"hello {number}", "max_tokens": 12}).encode(), client)
        case 1:
            return request(TEXT, b'{"prompt":"hello","max_tokens":12,"stream":true}', client)
        case 2:
            side = chance.choice((8, 64, 200, 640, 1200, 2400))
            picture = images.encoded(chance.choice(images.KINDS), (side, chance.choice((64, 200, 640))))
            return request(IMAGE, bodies.upload(picture), client, bodies.MULTIPART)
        case 3:
            return chat(f"q{number}", 8, client)
        case 4:
            return request("/avibe", b"prompt=hello", client, "application/x-www-form-urlencoded")
        case _:
            return request(chance.choice(PAGES), client=client)


def bad(chance: random.Random, client: str) -> bytes:
    """Return a request that is refused."""
    number = chance.randrange(10**9)
    pattern = {"type": "string", "pattern": f"^a{{{number % 10**6}}}$"}
    format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": pattern}}
    path, body, kind = chance.choice(
        (
            (TEXT, b"{", JSON),
            (TEXT, b'{"prompt":""}', JSON),
            (TEXT, json.dumps({"prompt": "x" * 3000}).encode(), JSON),
            (TEXT, b"\xff\xfe" * 500, JSON),
            (IMAGE, bodies.upload(b"\x89PNG\r\n\x1a\nxx"), bodies.MULTIPART),
            (IMAGE, bodies.upload(next(images.damaged(1, number))), bodies.MULTIPART),
            (CHAT, json.dumps({"model": f"m{number}", "messages": []}).encode(), JSON),
            (CHAT, bodies.chat_body(response_format=format_), JSON),
            (CHAT, bodies.chat_body(tools=[{"type": "function", "function": {"name": "f" * 5000}}]), JSON),
            (f"/api/x{number}", None, JSON),
            (TEXT, b"{}", "text/plain"),
        )
    )
    if chance.random() < 0.1:
        return chance.randbytes(300) + b"\r\n\r\n"
    return request(path, body, client, kind)


class Crowd:
    """Sends the requests, and looks at the service now and then."""

    def __init__(self, service: Service, report: Report, number: int) -> None:
        self._service, self._report, self._number = service, report, number
        self._next = iter(range(number))
        self.looks: list[Footprint] = []

    async def run(self) -> None:
        """Send all of them."""
        await asyncio.gather(*(self._client() for _ in range(AT_ONCE)))

    async def _client(self) -> None:
        every = max(1, int(self._number * (1 - WARM_UP) / LOOKS))
        for number in self._next:
            await self._one(random.Random(number))
            if number >= self._number * WARM_UP and number % every == 0:
                self.looks.append(await asyncio.to_thread(self._service.footprint))

    async def _one(self, chance: random.Random) -> None:
        client, share = f"10.{chance.randrange(250)}.{chance.randrange(250)}.1", chance.random()
        if share < LEFT:
            await self._leave(chance, client)
            self._report.count(None)
        elif share < LEFT + BAD:
            self._report.count(_trouble(await ask(self._service.port, bad(chance, client)), bad=True))
        else:
            self._report.count(_trouble(await ask(self._service.port, good(chance, client)), bad=False))

    async def _leave(self, chance: random.Random, client: str) -> None:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._service.port)
            writer.write(chat("q", 900, client))
            await asyncio.sleep(chance.random() * 0.1)
            writer.transport.abort()


def run(size: Size) -> Report:
    """Send everything, and compare what the service holds after the warm-up and at the end."""
    report = Report("soak", "nothing grows over many mixed requests, and memory stays under the printed bound")
    cpu = OwnCpu()
    with serving(size.model) as service:
        with observing(service, stream=False) as seen:
            crowd = Crowd(service, report, size.requests)
            asyncio.run(crowd.run())
            report.check("seconds until nothing is in flight", service.seconds_until_quiet(), 1)
            time.sleep(REST_SECONDS)
        end = service.footprint()
        quarter = max(1, len(crowd.looks) // 4)
        first, last = (_mean(looks) for looks in (crowd.looks[:quarter], crowd.looks[-quarter:]))
        report.notes |= {"resident_after_warm_up": first, "resident_at_the_end": last, "looks": len(crowd.looks)}
        report.check("growth of memory after the warm-up", last / first - 1, GROWTH)
        before = _most(crowd.looks)
        for name in ("threads", "descriptors", "sockets", "processes"):
            report.check(f"{name}: at rest afterwards, beyond those under load", getattr(end, name) - before[name], 0)
        report.check("the process lives", service.alive, 1, at_least=True)
        seen.judge(report, service)
    report.client_cpu = cpu.share
    return report


def _mean(looks: list[Footprint]) -> float:
    return sum(look.resident for look in looks) / len(looks)


def _most(looks: list[Footprint]) -> dict[str, int]:
    """Return the most of each figure that the first half of the looks saw."""
    half = looks[: max(1, len(looks) // 2)]
    names = ("threads", "descriptors", "sockets", "processes")
    return {name: max(getattr(look, name) for look in half) for name in names}


def _trouble(answer: Answer, bad: bool) -> str | None:
    """Return what is wrong with an answer, None if nothing is."""
    if bad:  # some of the damaged images and of the patterns are good after all
        return None if answer.typed else f"a bad request: {answer.status or 'none'}"
    return None if answer.status in (200, 503) else f"a good request: {answer.status or answer.trouble} {answer.code}"
