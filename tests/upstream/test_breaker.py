"""When a server is asked, and when it is left alone: its circuit breaker and its probes."""

from __future__ import annotations

import aiohttp
import pytest

from engine.errors import Overloaded, UpstreamFailed, ValidationError
from engine.types import Status
from tests.fake_upstream import FakeUpstream, Script, event
from tests.fakes import Clock
from tests.upstream.conftest import Open, asking
from tests.upstream.test_backend import SAID
from tests.upstream.test_faults import failure_of, state_of, until
from upstream.failures import AttemptFailed, of_exception
from upstream.replica import TOGETHER, Replica


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
def test_a_trial_that_finds_a_server_busy_closes_the_breaker(server: FakeUpstream, opened: Open, status: str) -> None:
    """It is there; others would be told that it cannot be reached."""
    clock = Clock()
    backend = opened(clock=clock, retries=0, breaker_failures=1, breaker_seconds=60)
    server.script.faults = ["500", status]
    failure_of(backend.submit(asking()))
    clock.advance(60)
    until(lambda: state_of(backend) == "half-open")
    assert isinstance(failure_of(backend.submit(asking())), Overloaded)
    assert state_of(backend) == "closed"


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
    assert opened(key="a-secret", probe_seconds=60).state().status is Status.READY
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


BEGUN = event({"choices": [{"delta": {"content": "The "}}]})


@pytest.mark.parametrize("last", [[], [event({"error": {"message": "The process is gone."}})]])
def test_a_process_that_is_lost_takes_no_other_of_its_server_along(
    server: FakeUpstream, opened: Open, last: list[bytes]
) -> None:
    """All its streams break off at once, of several clients, and the next request is asked of the others."""
    backend = opened(retries=0)
    server.script.raw, server.script.ending, server.script.gap = [BEGUN, *last], "cut", 0.05
    streams = [backend.submit(asking(client=f"c{number % 7}", request_id=str(number))) for number in range(11)]
    assert all(isinstance(failure_of(one), UpstreamFailed) for one in streams)
    assert (state_of(backend), sum(backend.reports()[0].failures.values())) == ("closed", 11)
    server.script = Script()
    assert backend.submit(asking()).result().text == SAID


def test_a_server_that_breaks_every_stream_is_left_alone_in_the_end(server: FakeUpstream, opened: Open) -> None:
    """However many break off together, and though one client's are always the first."""
    clock = Clock()
    backend = opened(clock=clock, retries=0, breaker_failures=3)
    server.script.always = "half"
    for clients in ("aab", "aab", "a"):
        assert state_of(backend) == "closed", clients
        for client in clients:
            failure_of(backend.submit(asking(client=client)))
        clock.advance(TOGETHER)
    assert state_of(backend) == "open"


def test_streams_that_break_off_in_a_row_without_a_pause_are_no_single_failure() -> None:
    """A second is counted from the first of them."""
    clock = Clock()
    replica = Replica("avibe", 0, "http://a/v1", fail_max=3, reset=10, clock=clock)
    lost = AttemptFailed("half", UpstreamFailed("Half."), breaks_off=True)
    for number in range(9):
        assert replica.state == "closed", number
        replica.failed(lost, "ab"[number % 2], begun=True)
        clock.advance(TOGETHER / 4)
    assert replica.state == "open"


def test_what_broke_off_before_a_breaker_is_half_open_excuses_no_trial_after_it() -> None:
    """Its trials break off as well, within the same second: two of them open it again."""
    clock = Clock()
    replica = Replica("avibe", 0, "http://a/v1", fail_max=2, reset=0, clock=clock)
    lost = AttemptFailed("half", UpstreamFailed("Half."), breaks_off=True)
    refused = AttemptFailed("500", UpstreamFailed("500."))
    for failure, client, begun in ((lost, "a", True), (refused, "b", False)):
        replica.failed(failure, client, begun=begun)
    assert replica.state == "open"
    replica.half_open()
    for client in "ab":
        replica.failed(lost, client, begun=True)
    assert replica.state == "open"


@pytest.mark.parametrize("fault", ["500", "reset", "nonsense"])
def test_what_fails_in_no_stream_that_broke_off_counts_each_time(
    server: FakeUpstream, opened: Open, fault: str
) -> None:
    """A request that fails before its stream begins, and an answer that is none."""
    backend = opened(clock=Clock(), retries=0, breaker_failures=3)
    server.script.always = fault
    for client in "aba":
        assert state_of(backend) == "closed"
        failure_of(backend.submit(asking(client=client)))
    assert state_of(backend) == "open"
