"""The busiest clients of the last hour: found among many, forgotten in time, in bounded memory."""

from telemetry.metrics.busiest import INTERVAL, INTERVALS, Busiest
from tests.fakes import Clock


def test_the_clients_with_most_requests_come_first():
    """Requests and failures are added up over the hour, by account and not by name."""
    clock = Clock()
    busiest = Busiest(clock)
    for account, failed in (("key:a", False), ("key:b", False), ("key:a", True), ("key:c", False)):
        busiest.count(account, "shop" if account != "key:b" else "desk", failed=failed)
    clock.now += INTERVAL
    busiest.count("key:a", "shop", failed=False)
    busiest.spend("key:a", "shop", 7)
    found = [(one.client, one.requests, one.failed, one.tokens) for one in busiest.most(2)]
    assert found == [("shop", 3, 1, 7), ("desk", 1, 0, 0)]


def test_requests_are_forgotten_after_an_hour():
    """What an interval counted leaves with it."""
    clock = Clock()
    busiest = Busiest(clock)
    busiest.count("a", "a", failed=False)
    clock.now += INTERVAL * INTERVALS
    assert busiest.most(5) == []
    busiest.count("b", "b", failed=False)
    assert [one.client for one in busiest.most(5)] == ["b"]


def test_a_busy_client_is_found_among_any_number_of_others():
    """An interval holds so many clients and no more; one with a fifth of all requests stays among eight."""
    busiest = Busiest(Clock(), capacity=8)
    for number in range(1000):
        busiest.count(f"other-{number}", f"other-{number}", failed=False)
        if number % 4 == 0:
            busiest.count("busy", "busy", failed=False)
    found = busiest.most(1000)
    assert len(found) == 8
    assert next(one.requests for one in found if one.client == "busy") >= 250
