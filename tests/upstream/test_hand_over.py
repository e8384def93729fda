"""Who gets on first where a request passes from one thread to another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.http_writer import StreamWriter

from tests.fake_upstream import FakeUpstream
from tests.timing import PATIENCE
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import until
from upstream.generation import UpstreamGeneration
from upstream.loop import UpstreamLoop


@pytest.fixture
def loop() -> Iterator[UpstreamLoop]:
    """A loop that runs."""
    loop = UpstreamLoop()
    loop.enter()
    yield loop
    loop.leave()


class Awake:
    """The lock that a producer waits for; given_way: how often it has waited."""

    given_way = 0

    def acquire(self, timeout: float) -> bool:
        self.given_way += 1
        return True

    def release(self) -> None:
        """As of a lock."""


def generation_of() -> tuple[UpstreamGeneration, Awake]:
    generation, awake = UpstreamGeneration("r", 1, 1e9, lambda: None, lambda: 0.0), Awake()
    generation._awake = awake  # type: ignore[assignment]
    return generation, awake


def test_a_consumer_that_waits_gets_on_before_its_producer() -> None:
    """Else whatever has come behind the first part would be read before that is sent."""
    generation, awake = generation_of()
    consumer = threading.Thread(target=generation.wait_for_begin)
    consumer.start()
    while not generation._waits:
        assert consumer.is_alive()
    generation.begin()
    consumer.join(PATIENCE)
    assert (awake.given_way, consumer.is_alive()) == (1, False)


def test_a_producer_waits_for_nobody_where_nobody_waits() -> None:
    """A second beginning, behind an attempt that was repeated, waits no more either."""
    generation, awake = generation_of()
    generation.begin()
    generation.wait_for_begin()
    generation.begin()
    assert awake.given_way == 0


def test_a_consumer_that_has_waited_in_vain_may_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what it is given in the end, once there is an answer."""
    monkeypatch.setattr("upstream.generation.COMMIT_AFTER", 0.0)
    generation = UpstreamGeneration("r", 1, 1e9, lambda: None, lambda: 0.0)
    for _ in range(3):
        generation.wait_for_begin()
    generation.begin()
    assert generation.certain


def test_the_loop_begins_a_task_before_the_calling_thread_goes_on(
    loop: UpstreamLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the task that it begins in turn, in which the body of a request is written."""
    monkeypatch.setattr("upstream.loop.LEAD", PATIENCE)
    steps: list[str] = []

    async def write() -> None:
        threading.Event().wait(0.05)  # for which a thread that does not wait goes on
        steps.append("written")

    async def ask() -> None:
        steps.append("asked")
        await asyncio.get_running_loop().create_task(write())

    loop.soon_first(lambda: loop.spawn(ask()))
    assert steps == ["asked", "written"]


def test_a_loop_that_is_at_work_is_not_waited_for(loop: UpstreamLoop) -> None:
    """What was handed over is done all the same."""
    ended, done = threading.Event(), threading.Event()
    loop.soon(ended.wait, PATIENCE)
    loop.soon_first(done.set)
    assert not done.is_set()
    ended.set()
    assert done.wait(PATIENCE)


def test_a_request_is_on_its_way_when_it_is_submitted(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a kept connection: its response is prepared while the server works."""
    backend = opened(probe_seconds=60)
    connector: Any = backend._loop.session.connector
    until(lambda: any(map(len, connector._conns.values())))  # that of the probe
    sent: list[str] = []
    write_eof = StreamWriter.write_eof

    async def noted(self: StreamWriter, *values: Any) -> None:
        await write_eof(self, *values)
        sent.append("sent")

    monkeypatch.setattr(StreamWriter, "write_eof", noted)
    monkeypatch.setattr("upstream.loop.LEAD", PATIENCE)
    generation = backend.submit(asking())
    assert sent == ["sent"]
    assert generation.result().text == SAID
