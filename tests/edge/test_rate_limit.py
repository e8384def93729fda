"""Budgets in moving windows: what is charged and what is not."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute

from edge.local_windows import SWEEP_SECONDS, LocalWindows
from edge.rate_limit import OverBudget, RateLimiter
from edge.shared_windows import SharedWindows, StoredWindows
from engine.errors import ValidationError
from tests.edge.limit_storage import ListedEntries
from tests.fakes import Clock
from tests.threads import together
from tests.timing import NewThreads

HUNDRED = RateLimitItemPerMinute(100)


@pytest.fixture
def clock():
    return Clock()


def spend_all(limiter, times, client="1.1.1.1", budget="generation"):
    """Spend once for each; return what was left each time."""
    return [limiter.spend(budget, client).remaining for _ in range(times)]


def refusal(limiter, client="1.1.1.1", cost=1, budget="generation"):
    """Check that the budget is spent; return the refusal."""
    with pytest.raises(OverBudget) as caught:
        limiter.spend(budget, client, cost)
    return caught.value


def test_the_eleventh_call_of_a_minute_is_refused(clock):
    """The eleventh request in a minute is refused with the fixed wording and a Retry-After."""
    limiter = RateLimiter(10, 100, clock=clock)
    assert spend_all(limiter, 10) == list(range(9, -1, -1))
    refused = refusal(limiter)
    assert refused.message == "Rate limit exceeded: 10 requests per minute"
    assert (refused.window, refused.retry_after) == ("minute", 60)


def test_the_budget_of_counting_is_ten_times_as_large(clock):
    """In both windows, with its own numbers in the wording and the headers; the others keep theirs."""
    limiter = RateLimiter(2, 3, clock=clock)
    assert spend_all(limiter, 20, budget="counting") == list(range(19, -1, -1))
    assert refusal(limiter, budget="counting").message == "Rate limit exceeded: 20 requests per minute"
    clock.advance(60)
    spend_all(limiter, 10, budget="counting")
    assert refusal(limiter, budget="counting").message == "Rate limit exceeded: 30 requests per hour"
    assert refusal(limiter, budget="counting").quota.headers()["RateLimit-Policy"] == "20;w=60, 30;w=3600"
    assert spend_all(limiter, 2) == [1, 0]
    assert refusal(limiter).message == "Rate limit exceeded: 2 requests per minute"
    assert spend_all(limiter, 1, budget="health") == [1]


def test_the_window_moves(clock):
    """A request leaves the window a minute after it was made, not at the full minute."""
    limiter = RateLimiter(2, 0, clock=clock)
    spend_all(limiter, 1)
    clock.advance(40)
    spend_all(limiter, 1)
    assert refusal(limiter).retry_after == 20
    clock.advance(20)
    spend_all(limiter, 1)
    assert refusal(limiter).retry_after == 40


def test_a_look_takes_nothing_of_what_remains(clock):
    """What it costs is only checked."""
    limiter = RateLimiter(5, 0, clock=clock)
    assert limiter.spend("generation", "1.1.1.1", 2, only_look=True).remaining == 5
    assert limiter.spend("generation", "1.1.1.1", 2).remaining == 3


def test_a_refused_call_is_charged_nowhere(clock):
    """Refused requests do not prolong the refusal, in either window."""
    limiter = RateLimiter(2, 3, clock=clock)
    spend_all(limiter, 2)
    for _ in range(50):
        refusal(limiter)
    clock.advance(60)
    assert limiter.spend("generation", "1.1.1.1").remaining == 0
    refused = refusal(limiter)
    assert (refused.window, refused.message) == ("hour", "Rate limit exceeded: 3 requests per hour")
    assert refused.retry_after == 3600 - 60


def test_of_two_spent_windows_the_longer_one_is_told(clock):
    """Whoever waits as long as the refusal says is admitted."""
    limiter = RateLimiter(2, 2, clock=clock)
    spend_all(limiter, 2)
    refused = refusal(limiter)
    assert (refused.window, refused.retry_after) == ("hour", 3600)
    clock.advance(refused.retry_after)
    limiter.spend("generation", "1.1.1.1")


def test_clients_and_budgets_do_not_share(clock):
    """Each address has its own budgets, one for health and one for generation."""
    limiter = RateLimiter(1, 0, clock=clock)
    for client in ("1.1.1.1", "2.2.2.2"):
        for budget in ("generation", "health"):
            spend_all(limiter, 1, client, budget)
            refusal(limiter, client, budget=budget)


def test_a_batch_costs_what_it_holds(clock):
    """Seven prompts cost seven requests; what does not fit is refused whole and not charged."""
    limiter = RateLimiter(10, 100, clock=clock)
    assert limiter.spend("generation", "1.1.1.1", 7).remaining == 3
    refusal(limiter, cost=4)
    assert limiter.spend("generation", "1.1.1.1", 3).remaining == 0


def test_a_check_charges_nothing_and_refuses_a_spent_budget(clock):
    """A check before the body is read refuses spent budgets and charges nothing."""
    limiter = RateLimiter(1, 0, clock=clock)
    for _ in range(3):
        limiter.spend("generation", "1.1.1.1", only_look=True)
    spend_all(limiter, 1)
    with pytest.raises(OverBudget):
        limiter.spend("generation", "1.1.1.1", only_look=True)


def test_a_cost_that_no_window_can_hold_is_a_mistake_of_the_request(clock):
    """A cost above the limit is a validation error without Retry-After."""
    with pytest.raises(ValidationError, match="counts as 11 requests, over the limit of 10 per minute"):
        RateLimiter(10, 100, clock=clock).spend("generation", "1.1.1.1", 11)


@pytest.mark.parametrize(("minute", "hour", "window"), [(0, 2, "hour"), (2, 0, "minute")])
def test_zero_switches_a_window_off(clock, minute, hour, window):
    """The other window still applies."""
    limiter = RateLimiter(minute, hour, clock=clock)
    spend_all(limiter, 2)
    assert refusal(limiter).window == window


def test_without_limits_nothing_is_counted(clock):
    """With both windows off there are no refusals and no headers."""
    limiter = RateLimiter(0, 0, clock=clock)
    assert [limiter.spend("generation", "1.1.1.1") for _ in range(500)] == [None] * 500


def test_headers_show_the_tightest_window(clock):
    """Limit, remaining requests, seconds until one is free, and both windows as the policy."""
    limiter = RateLimiter(10, 100, clock=clock)
    assert limiter.spend("generation", "1.1.1.1").headers() == {
        "RateLimit-Limit": "10",
        "RateLimit-Remaining": "9",
        "RateLimit-Reset": "60",
        "RateLimit-Policy": "10;w=60, 100;w=3600",
    }


def test_many_threads_get_exactly_the_budget(clock):
    """Concurrent requests are neither admitted over the limit nor charged when refused."""
    limiter, won, barrier = RateLimiter(10, 100, clock=clock), [], threading.Barrier(24)

    def knock():
        barrier.wait()
        for _ in range(4):
            try:
                won.append(limiter.spend("generation", "1.1.1.1"))
            except OverBudget:
                pass

    together(*[knock] * 24)
    assert len(won) == 10
    assert min(quota.remaining for quota in won) == 0


def outcome(limiter, budget, client, cost, only_look):
    """Return all that a caller sees of one call."""
    try:
        return limiter.spend(budget, client, cost, only_look=only_look)
    except OverBudget as refused:
        return refused.window, refused.quota, refused.message, refused.retry_after
    except ValidationError as mistake:
        return mistake.message


CALLS = st.tuples(
    st.sampled_from(["generation", "health"]),
    st.sampled_from(["1.1.1.1", "2001:db8::/64"]),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([0, 0.25, 1, 19.5, 59.75, 60, 1800, 3600]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(per_minute=st.integers(0, 4), per_hour=st.integers(0, 9), calls=st.lists(CALLS, max_size=40))
def test_memory_counts_as_the_library_does(per_minute, per_hour, calls):
    """Every call has the same outcome in this process's windows as through the library: charged, shown and refused."""
    clock = Clock()
    shared = SharedWindows(StoredWindows(ListedEntries(clock), clock))
    ours, librarys = RateLimiter(per_minute, per_hour, None, clock), RateLimiter(per_minute, per_hour, shared, clock)
    for *call, pause in calls:
        assert outcome(ours, *call) == outcome(librarys, *call)
        clock.advance(pause)
    assert not shared.unavailable


def test_clients_that_stay_away_are_forgotten(clock):
    """Memory holds only the clients of the last hour, and no thread is started."""
    windows, threads = LocalWindows(clock), NewThreads()
    for number in range(1000):
        windows.take(HUNDRED, "generation", f"client-{number}", 1)
    assert len(windows) == 1000
    clock.advance(max(60, SWEEP_SECONDS))
    windows.take(HUNDRED, "generation", "another", 1)
    assert len(windows) == 1
    assert len(threads) == 0


@pytest.mark.parametrize(("windows", "hits"), [(3, 1000), (1000, 6)])
def test_many_clients_are_bounded_in_memory(clock, monkeypatch, windows, hits):
    """Those charged longest ago begin anew; whoever was charged last is never forgotten."""
    monkeypatch.setattr("edge.local_windows.MAX_WINDOWS", windows)
    monkeypatch.setattr("edge.local_windows.MAX_HITS", hits)
    storage = LocalWindows(clock)
    for client in "abcde":
        assert storage.take(HUNDRED, "generation", "kept", 1)
        assert storage.take(HUNDRED, "generation", client, 1)
    assert len(storage) <= 4
    assert storage.used(HUNDRED, "generation", "kept")[1] >= 3
    assert storage.used(HUNDRED, "generation", "a")[1] == 0
    for _ in range(20):
        assert storage.take(HUNDRED, "generation", "kept", 1)
    assert storage.used(HUNDRED, "generation", "kept")[1] >= 20
