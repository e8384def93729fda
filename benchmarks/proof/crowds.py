"""Batches of more clients than the queue has places, and a client with one slow grammar after the other: the requests
of others find room all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from multiprocessing import get_context
from typing import TYPE_CHECKING

from benchmarks.proof import bodies
from benchmarks.proof.report import Report, percentile
from benchmarks.proof.service import Service, serving
from benchmarks.proof.size import Size
from benchmarks.proof.traffic import CHAT, TEXT, Answer, OwnCpu, ask, closed_loop, request
from edge.batch_capacity import RETRY_AFTER

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

BATCH = "/api/v1/text/batch"
BATCHES = 500  # of a client each; the queue has 128 places, there are 64 slots, and threads for 496 requests
TEXTS, TOKENS = 4, 2000  # of one batch, and of one of its texts
EVERY = 0.2  # seconds between two interactive requests
BEGIN_SECONDS = 5.0  # in which their process starts, and the batches come in
TIMES = 1.25  # as long as alone others may wait at most
AT_ONCE = 10  # slow grammars of the one client
OTHER, GREEDY = "198.51.100.3", "10.6.6.6"
_numbers: Iterator[int] = itertools.count()


def beside_batches(service: Service, seconds: float, many: int = BATCHES) -> list[Answer]:
    """Return the answers to short requests of another client, beside so many batches that another process sends."""
    spawning = get_context("spawn")
    ended, refused = spawning.Value("q", 0), spawning.Value("q", 0)
    sending = spawning.Process(target=_send_batches, args=(service.port, many, ended, refused), daemon=True)
    sending.start()
    try:
        time.sleep(BEGIN_SECONDS)
        answers = asyncio.run(_short_requests(service.port, seconds))
        if many and not (sending.is_alive() and ended.value and refused.value):
            raise RuntimeError(f"No crowd: {ended.value} batches have ended, and {refused.value} were refused.")
        return answers
    finally:
        sending.terminate()
        sending.join()


async def _short_requests(port: int, seconds: float) -> list[Answer]:
    answers, until = list[Answer](), time.monotonic() + seconds
    while time.monotonic() < until:
        answers.append(await ask(port, request(TEXT, b'{"prompt":"hi","max_tokens":2}', OTHER)))
        await asyncio.sleep(EVERY)
    return answers


def _send_batches(port: int, many: int, ended: Synchronized[int], refused: Synchronized[int]) -> None:
    """Send the batch of each client again as soon as it has ended, and seconds after it was refused, without an end.

    ended, refused: count them.
    """
    texts = [{"prompt": f"Write {number}", "max_tokens": TOKENS} for number in range(TEXTS)]
    body = json.dumps({"prompts": texts}).encode()

    async def again(number: int) -> None:
        client, pause = f"10.{20 + number // 250}.{number % 250}.1", RETRY_AFTER * (1 + number / many)
        await asyncio.sleep(number / many)  # these two so that they do not come all at once
        while True:
            answer = await ask(port, request(BATCH, body, client))
            ended.value += answer.status == HTTPStatus.OK and answer.whole
            refused.value += answer.status == HTTPStatus.SERVICE_UNAVAILABLE
            await asyncio.sleep(pause if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else 0)

    async def all_of_them() -> None:
        await asyncio.gather(*map(again, range(many)))
        await asyncio.Event().wait()

    asyncio.run(all_of_them())


async def beside_grammars(service: Service, seconds: float, slow: int) -> list[Answer]:
    """Return the answers of new small schemas, one after the other, beside so many slow grammars of another client."""
    answers: list[Answer] = []

    async def new_schema(_: int) -> None:
        schema = {"type": "object", "properties": {f"v{next(_numbers)}": {"type": "string", "maxLength": 5}}}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answers.append(await ask(service.port, request(CHAT, bodies.chat_body(response_format=form), OTHER)))

    async def slow_grammar(_: int) -> None:
        body = bodies.chat_body(guided_grammar=bodies.slow_grammar(next(_numbers)))
        await ask(service.port, request(CHAT, body, GREEDY))

    await asyncio.gather(*(_loop(*one, seconds) for one in ((slow, slow_grammar), (1, new_schema))))
    return answers


async def _loop(clients: int, one: Callable[[int], Awaitable[None]], seconds: float) -> None:
    await closed_loop(clients, seconds, one)


def run(size: Size) -> Report:
    """Try both on one service."""
    report = Report("crowds", "batches and slow grammars leave room for the requests of others")
    cpu = OwnCpu()
    with serving(size.model) as service:
        asyncio.run(beside_grammars(service, 1.0, 0))
        alone = asyncio.run(beside_grammars(service, size.seconds, 0))
        beside = asyncio.run(beside_grammars(service, size.seconds, AT_ONCE))
        service.seconds_until_quiet()
        quiet = beside_batches(service, size.seconds, 0)
        batches = beside_batches(service, size.seconds)
        for what, answers in (("a new schema", [*alone, *beside]), ("beside batches", [*quiet, *batches])):
            for answer in answers:
                report.count(None if answer.status == 200 else f"{what}: {answer.status} {answer.code}".rstrip())
        _compare(report, "new_schema", "a new schema p95 beside slow grammars", alone, beside)
        _compare(report, "interactive", "an interactive request p95 beside batches", quiet, batches)
        report.check("the process lives", service.alive, 1, at_least=True)
    report.client_cpu = cpu.share
    return report


def _compare(report: Report, name: str, figure: str, alone: list[Answer], beside: list[Answer]) -> None:
    before, after = (percentile((answer.total for answer in answers), 95) for answers in (alone, beside))
    report.notes[f"{name}_p95_s"] = [before, after]
    report.check(f"{figure}, of alone", after / before if before and after else None, TIMES)
