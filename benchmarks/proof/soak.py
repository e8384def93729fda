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
WARM_UP = 0.1  # of all requests, before the first look
FIRST = 200  # requests before what the service holds at rest is looked at: some threads begin with their first use
LOOKS = 200  # at the footprint, after the warm-up
PARTS = 10  # of the looks, whose means are compared: what twelve requests hold at a moment differs much
LONG_PROMPTS = 100  # for each model, which fill its prefix cache
PATTERNS = range(30_000, 30_008)  # counts that are just compiled: a few of these grammars fill a model's cache
CLIENTS = 4096  # addresses of which parsed forms and shares are kept
GROWTH = 0.02
REST_SECONDS = 5.0
MODELS = ("avibe", "avision")
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
    format_ = _pattern(number % 10**6)
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


def _pattern(count: int) -> dict[str, object]:
    """Return the format of an answer of so many letters."""
    schema = {"type": "string", "pattern": f"^a{{{count}}}$"}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


async def fill(service: Service, clients: int) -> None:
    """Fill what is bounded and would else fill during the soak: prefix and grammar caches, facts of clients."""
    gate = asyncio.Semaphore(AT_ONCE)
    for model in MODELS:
        for count in PATTERNS:  # one at a time, so that each is compiled in its time
            await ask(
                service.port,
                chat("q", 1, "10.4.0.1", model=model, ignore_eos=False, response_format=_pattern(count)),
            )

    async def one(data: bytes) -> None:
        async with gate:
            await ask(service.port, data)

    words = [" ".join(f"{number}w{word}" for word in range(280)) for number in range(LONG_PROMPTS)]
    prompts = [chat(text, 1, f"10.5.{n}.1", model=model) for model in MODELS for n, text in enumerate(words)]
    refused = [request(TEXT, b'{"prompt":""}', f"10.6.{n // 250}.{n % 250}") for n in range(clients)]
    await asyncio.gather(*map(one, [*prompts, *refused]))


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
            self._report.count(trouble_of_bad(await ask(self._service.port, bad(chance, client))))
        else:
            data = good(chance, client)
            self._report.count(trouble_of_good(data, await ask(self._service.port, data)))

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
            asyncio.run(fill(service, min(CLIENTS, size.requests)))
            asyncio.run(Crowd(service, Report("", ""), min(FIRST, size.requests)).run())
            before = _at_rest(service, report, "before")
            crowd = Crowd(service, report, size.requests)
            asyncio.run(crowd.run())
            end = _at_rest(service, report, "after")
        means = parts(crowd.looks)
        report.notes |= {"resident_bytes_from_the_warm_up_on": means, "looks": len(crowd.looks)}
        report.check("growth of memory after the warm-up", means[-1] / means[0] - 1, GROWTH)
        for name in ("threads", "descriptors", "sockets", "processes"):
            report.check(f"{name}: beyond those before the crowd", getattr(end, name) - getattr(before, name), 0)
        report.check("the process lives", service.alive, 1, at_least=True)
        seen.judge(report, service)
    report.client_cpu = cpu.share
    return report


def _at_rest(service: Service, report: Report, when: str) -> Footprint:
    """Return what the service holds once nothing is in flight and every connection has ended."""
    report.check(f"seconds until nothing is in flight, {when}", service.seconds_until_quiet(), 1)
    for model in MODELS:  # a model keeps as many threads as its last step had cores: all, where it has them alone
        time.sleep(REST_SECONDS)
        asyncio.run(_ask_alone(service, model))
    time.sleep(REST_SECONDS)
    return service.footprint()


async def _ask_alone(service: Service, model: str) -> None:
    await ask(service.port, chat("q", 4, "10.4.0.1", model=model))


def parts(looks: list[Footprint], many: int = PARTS) -> list[int]:
    """Return the mean of the resident bytes in each of so many parts of the looks, fewer where there are too few."""
    size = max(1, len(looks) // many)
    groups = (looks[start : start + size] for start in range(0, size * min(many, len(looks)), size))
    return [sum(look.resident for look in group) // len(group) for group in groups]


def trouble_of_bad(answer: Answer) -> str | None:
    """Return what is wrong with the answer to a bad request, None if nothing is.

    Some of the damaged images and of the patterns are good after all.
    """
    return None if answer.typed else f"a bad request: {answer.status or answer.trouble or 'none'}"


def trouble_of_good(data: bytes, answer: Answer) -> str | None:
    """Return what is wrong with the answer to a good request, None if nothing is: so few are never refused."""
    generates = data.split(b" ", 2)[1].decode() in (TEXT, IMAGE, CHAT)
    if answer.complete if generates else answer.status == 200 and answer.whole:
        return None
    return f"a good request: {answer.status or 'none'} {answer.code or answer.trouble or 'cut off'}"
