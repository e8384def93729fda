"""How long a request takes at most, and what its time is given to."""

from __future__ import annotations

import pytest

from engine.errors import RetryLater, UpstreamFailed, UpstreamTimedOut
from tests.fake_upstream import FakeUpstream
from tests.fakes import Clock, ScriptedBackend
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import failure_of, until


def test_an_answer_that_goes_on_ends_with_the_total_time(server: FakeUpstream, opened: Open) -> None:
    """Though no event of it is late."""
    server.script.gap = 0.5
    error = failure_of(opened(timeout=2, retries=0).submit(asking()))
    assert type(error) is UpstreamTimedOut


def test_a_pause_beyond_the_total_time_is_the_clients_at_once(server: FakeUpstream, opened: Open) -> None:
    """It would be made in vain, and the client would learn of it too late."""
    server.script.retry_after, server.script.faults = "6", ["429"]
    error = failure_of(opened(timeout=5).submit(asking()))
    assert isinstance(error, RetryLater)
    assert (error.retry_after, len(server.heard)) == (6, 1)


def test_a_stream_begins_in_time_without_an_answer(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies do not wait for ever; what comes later is in it."""
    monkeypatch.setattr("upstream.generation.COMMIT_AFTER", 0.1)
    server.script.wait = 2
    begun = opened().submit(asking())
    begun.wait_for_begin()
    assert not begun.certain
    assert begun.result().text == SAID


@pytest.mark.parametrize(("seconds", "left"), [(40, [60]), (100, [])])
def test_the_checkpoint_has_the_time_that_is_left(
    server: FakeUpstream, opened: Open, seconds: float, left: list[float]
) -> None:
    """To ask it for longer than the client waits would be in vain."""
    clock, own = Clock(), ScriptedBackend()
    backend = opened(clock=clock, role="first", retries=0)
    backend.stand_in = own.submit
    server.script.wait = 30
    backend.submit(asking(timeout=100))
    server.wait_for(lambda server: server.heard)
    clock.advance(seconds)
    server.do(server.kill)
    until(lambda: not backend.stats().num_requests_running)
    assert [request.timeout for request in own.submitted] == left


def test_no_attempt_begins_once_the_time_is_over(
    server: FakeUpstream, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may end in the pause before it; the client hears what the last one failed with."""
    clock = Clock()
    monkeypatch.setattr("upstream.call.random.uniform", lambda *_: clock.advance(10) or 0.0)
    backend = opened(clock=clock, timeout=5, retries=3)
    server.script.always = "500"
    assert type(failure_of(backend.submit(asking()))) is UpstreamFailed
    (report,) = backend.reports()
    assert (report.requests, report.failures) == (1, {"status_500": 1})
