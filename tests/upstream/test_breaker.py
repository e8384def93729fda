"""When a server is asked, and when it is left alone: its circuit breaker and its probes."""

from __future__ import annotations

import aiohttp
import pytest

from engine.errors import Overloaded, ValidationError
from engine.types import Status
from tests.fake_upstream import FakeUpstream
from tests.fakes import Clock
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import failure_of, state_of, until
from upstream.failures import of_exception


def test_a_trial_that_refuses_a_clients_mistake_closes_the_breaker(server: FakeUpstream, opened: Open) -> None:
    """The server works again; what it was asked is not its fault."""
    clock = Clock()
    backend = opened(clock=clock, retries=0, breaker_failures=1, breaker_seconds=60)
    server.script.faults = ["500", "400"]
    failure_of(backend.submit(asking()))
    clock.advance(60)
    until(lambda: state_of(backend) == "half-open")
    assert isinstance(failure_of(backend.submit(asking())), ValidationError)
    assert state_of(backend) == "closed"


def test_a_good_answer_forgets_that_a_server_was_away(server: FakeUpstream, opened: Open) -> None:
    """Failures without one between open its breaker, and not those of a day."""
    backend = opened(retries=0, breaker_failures=3)
    for state in ("closed", "open"):
        server.do(server.stop_listening)
        for _ in range(2 if state == "closed" else 3):
            assert state_of(backend) == "closed"
            failure_of(backend.submit(asking()))
        assert state_of(backend) == state
        server.do(server.open)
        if state == "closed":
            assert backend.submit(asking()).result().text == SAID


@pytest.mark.parametrize("status", ["429", "503"])
def test_a_busy_server_is_not_broken(server: FakeUpstream, opened: Open, status: str) -> None:
    """It says itself when to come back, and its breaker stays closed."""
    backend = opened(retries=0, breaker_failures=1)
    server.script.faults = [status] * 2
    for client in "ab":
        assert isinstance(failure_of(backend.submit(asking(client=client))), Overloaded)
    assert (state_of(backend), backend.reports()[0].failures) == ("closed", {f"status_{status}": 2})


@pytest.mark.parametrize(
    ("error", "kind", "is_away"),
    [
        (aiohttp.ConnectionTimeoutError(), "timeout", True),
        (aiohttp.SocketTimeoutError(), "timeout", False),
        (aiohttp.ServerDisconnectedError(), "reset", False),
        (aiohttp.InvalidURL("x"), "connect", True),
    ],
)
def test_who_cannot_be_connected_to_is_away(error: Exception, kind: str, is_away: bool) -> None:
    """No request provokes that; whatever comes after the connection may be the request's fault."""
    failure = of_exception(error)
    assert (failure.kind, failure.away, failure.counts) == (kind, is_away, True)


def test_a_server_that_is_still_away_is_left_alone_for_as_long_again(server: FakeUpstream, opened: Open) -> None:
    """Its breaker opens for a request only once a probe was answered."""
    clock = Clock()
    server.script.always = "500"
    backend = opened(clock=clock, probe_seconds=1, breaker_seconds=60)
    clock.advance(60)
    assert backend.fleet.left_open() == 0
    until(lambda: backend.fleet.left_open() == 60)
    (report,) = backend.reports()
    assert (report.state, report.opened, report.failures) == ("open", 1, {"probe": 2})


@pytest.mark.parametrize("state", ["closed", "open"])
def test_a_server_that_works_and_one_that_rests_are_not_probed(
    server: FakeUpstream, other: FakeUpstream, opened: Open, state: str
) -> None:
    """One may be too busy to answer a probe in time; the other is left alone for as long as its breaker is open."""
    clock, servers = Clock(), (server, other)
    urls = (server.url, other.url)
    backend = opened(clock=clock, urls=urls, probe_seconds=1, breaker_seconds=60, breaker_failures=1, retries=0)
    for one in servers:
        one.script.wait, one.script.faults = 30, ["500"] if state == "open" else []
    asked = backend.submit(asking())
    until(lambda: server.heard or other.heard)
    if state == "open":
        failure_of(asked)
    here, there = (0, 1) if server.heard else (1, 0)
    for _ in range(2):
        clock.advance(2)
        until(lambda: backend.reports()[there].seconds_since_success == 0)
    assert (state_of(backend, here), servers[here].probes, servers[there].probes) == (state, 1, 3)
    asked.abort()


def test_a_server_that_has_just_answered_is_not_probed(server: FakeUpstream, other: FakeUpstream, opened: Open) -> None:
    """Only after `probe_seconds`, whatever others need."""
    clock, urls = Clock(), (server.url, other.url)
    other.script.always = "500"
    backend = opened(clock=clock, urls=urls, probe_seconds=1, breaker_seconds=0.75)
    clock.advance(0.875)
    until(lambda: backend.reports()[1].failures["probe"] == 2)
    assert server.probes == 1


def test_probes_follow_no_redirect(server: FakeUpstream, other: FakeUpstream, opened: Open) -> None:
    """Nor do they take their key elsewhere; whoever redirects is there."""
    server.script.moved = f"{other.url}/models"
    assert opened(key="a-secret").state().status is Status.READY
    assert (server.probes, other.probes) == (1, 0)


def test_another_key_is_sent_from_then_on(server: FakeUpstream, opened: Open) -> None:
    """With requests and with probes."""
    clock = Clock()
    backend = opened(clock=clock, key="first", probe_seconds=1)
    assert server.probed_with["authorization"] == "Bearer first"
    backend.use_key("second")
    assert backend.submit(asking()).result().text == SAID
    assert server.heard[0].headers["authorization"] == "Bearer second"
    clock.advance(2)
    until(lambda: server.probed_with["authorization"] == "Bearer second")
