"""Tokens a minute and concurrent requests that copies of the service hold together, over a real Redis."""

import contextlib
import threading
from functools import partial

import pytest

from edge.shared_limits import SharedLimits
from edge.shared_windows import SharedWindows, redis_windows
from keys.account import Account, Limits
from tests.e2e.gunicorn_process import until
from tests.edge.test_shared_windows import Pauses
from tests.fakes import PATIENCE
from tests.system_process import Redis
from tests.threads import together
from usage.budgets import Budgets
from usage.errors import HeldBack, LimitReached
from usage.prices import Prices
from usage.totals import Totals

pytestmark = pytest.mark.needs("redis-server")


class Copy:
    """The budgets of one copy of the service with this Redis."""

    def __init__(self, url, patience):
        self.pauses = Pauses()
        self.shared = SharedWindows(redis_windows(url), self.pauses)
        everywhere = SharedLimits(self.shared, 300)
        self.budgets = Budgets(Totals(None), Prices(None), patience=patience, everywhere=everywhere)
        self.redis = self.shared.windows.storage.storage

    def admit(self, account, context=100, answers=1):
        """Admit a request as a route does."""
        self.budgets.check(account)
        return self.budgets.admit(account, "avibe", dict.fromkeys(range(answers), (context, 10)))

    def answer(self, account, tokens):
        """Have a request use so many tokens."""
        reservation = self.admit(account, context=1)
        self.budgets.count(account.id, 0, tokens, 0)
        reservation.release()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One Redis for the tests of this module."""
    with Redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture
def copies(server, monkeypatch):
    """Two copies over an empty Redis, which may take its time on a busy machine."""
    monkeypatch.setattr("edge.shared_windows.REDIS_TIMEOUT", PATIENCE)
    with contextlib.ExitStack() as made:
        found = [Copy(server.url, 0) for _ in range(2)]
        for copy in found:
            made.enter_context(contextlib.closing(copy.pauses))
            made.callback(copy.redis.close)
        found[0].redis.flushall()
        yield found


def key(**limits):
    return Account("key:a", limits=Limits(**limits))


def test_concurrent_requests_count_over_all_copies(copies):
    """A request that ends in one makes room in the other; those of another key are its own."""
    one, other = copies
    account = key(concurrent_requests=2)
    first, _ = one.admit(account), one.admit(account)
    with pytest.raises(LimitReached) as refused:
        other.admit(account)
    assert refused.value.limit == "concurrent_requests"
    other.admit(Account("key:b", limits=account.limits))
    first.leave()
    other.admit(account)
    with pytest.raises(LimitReached):
        one.admit(account)


def test_copies_that_admit_at_once_admit_no_more(copies):
    """Nothing comes between the look and the admission."""
    account, admitted = key(concurrent_requests=5), []

    def ask(copy):
        for _ in range(4):
            with contextlib.suppress(LimitReached):
                admitted.append(copy.admit(account))

    together(*(partial(ask, copy) for copy in copies * 4))
    assert len(admitted) == 5
    for reservation in admitted:
        reservation.release()
    assert copies[0].redis.hlen("avito_ai:{key:a}:in_flight") == 0


def test_tokens_of_a_minute_count_over_all_copies(copies):
    """A copy refuses what the tokens of the other leave no room for, until the minute has moved on."""
    one, other = copies
    account = key(tokens_per_minute=100)
    one.answer(account, 60)
    other.answer(account, 40)
    for copy in copies:
        with pytest.raises(LimitReached) as refused:
            copy.admit(account, context=1)
        assert refused.value.limit == "tokens_per_minute"
        assert 50 <= refused.value.retry_after <= 61
    other.answer(Account("key:b", limits=account.limits), 1)
    now = one.redis.time()[0]
    minute = "avito_ai:{key:a}:minute"
    one.redis.delete(minute)
    one.redis.hset(minute, mapping={now - 61: 1000, now - 30: 70, now - 10: 60})
    with pytest.raises(LimitReached) as refused:
        other.admit(account, context=1)
    assert 29 <= refused.value.retry_after <= 31


def test_what_one_copy_holds_back_the_other_may_not_use(copies):
    """Until the size of a prompt is known; what was used then counts once."""
    one, other = copies
    account = key(tokens_per_minute=100)
    reservation = one.admit(account, context=4096)
    with pytest.raises(HeldBack):
        other.admit(account)
    reservation.narrow(0, 5, 10)
    held = other.admit(account, context=20)
    with pytest.raises(HeldBack):
        one.admit(account, context=200).hold({1: (10, 10)})
    held.release()
    one.budgets.count(account.id, 0, 15, 0)
    reservation.release()
    assert [int(tokens) for tokens in one.redis.hvals("avito_ai:{key:a}:minute")] == [15]


def test_an_admission_waits_for_the_size_of_a_prompt_elsewhere(server, copies):
    """It is admitted as soon as that is known."""
    one, account, patient = copies[0], key(tokens_per_minute=100), Copy(server.url, PATIENCE)
    with contextlib.closing(patient.pauses):
        reservation, admitted = one.admit(account, context=4096), threading.Event()
        asking = threading.Thread(target=lambda: (patient.admit(account), admitted.set()))
        asking.start()
        assert not admitted.wait(0.05)
        reservation.narrow(0, 5, 10)
        asking.join(PATIENCE)
        patient.redis.close()
    assert admitted.is_set()


def test_the_texts_of_a_batch_are_one_request(copies):
    """Each further text holds back its own tokens, and a text that is refused holds nothing."""
    one, other = copies
    account = key(tokens_per_minute=100, concurrent_requests=1)
    batch = one.admit(account, answers=0)
    batch.hold({0: (50, 10)})
    batch.hold({1: (60, 10)})
    with pytest.raises(HeldBack):
        batch.hold({2: (10, 10)})
    with pytest.raises(LimitReached):
        other.admit(account)
    assert one.redis.hvals("avito_ai:{key:a}:in_flight")[0].split()[1:] == [b"110", b"1", b"1"]
    batch.release()
    other.admit(account)


def test_requests_of_a_copy_that_is_gone_do_not_count_for_ever(copies):
    """They end by their time."""
    account = key(concurrent_requests=1)
    copies[0].redis.hset("avito_ai:{key:a}:in_flight", "gone", "1 100 1 1")
    copies[1].admit(account)


def test_another_storage_counts_from_the_next_request_on(server, copies):
    """As where the address of it, or its password, is renewed while the service runs."""
    one, other = copies
    account = key(concurrent_requests=1)
    one.admit(account)
    other.shared.use(redis_windows(server.url.replace("/0", "/1")))
    reservation = other.admit(account)
    with pytest.raises(LimitReached):
        other.admit(account)
    reservation.release()
    other.shared.windows.storage.storage.close()


def test_a_request_that_ends_while_redis_is_away_is_told_afterwards(copies):
    """It does not count in the other copies until its time is over; of several changes the last one is told."""
    one, other = copies
    account = key(concurrent_requests=1, tokens_per_minute=1000)
    ended = one.admit(account)
    one.shared.failed(OSError("away"))
    ended.narrow(0, 5, 10)
    ended.release()
    with pytest.raises(LimitReached):
        other.admit(account)
    one.pauses.end()
    until(lambda: one.redis.hlen("avito_ai:{key:a}:in_flight") == 0)
    other.admit(account)
    until(lambda: not one.budgets._everywhere._untold)


def test_a_request_that_begins_while_redis_is_away_is_told_afterwards(copies):
    """As long as it runs, it counts in the other copies too."""
    one, other = copies
    account = key(concurrent_requests=1)
    one.shared.failed(OSError("away"))
    running = one.admit(account)
    one.pauses.end()
    until(lambda: not one.budgets._everywhere._untold)
    with pytest.raises(LimitReached):
        other.admit(account)
    running.release()
    other.admit(account).release()


def test_what_is_kept_while_redis_is_away_is_bounded(copies, monkeypatch):
    """Of more requests than a number, the newest are told."""
    monkeypatch.setattr("edge.shared_limits.MOST_UNTOLD", 10)
    one, account = copies[0], key(concurrent_requests=100)
    one.shared.failed(OSError("away"))
    for _ in range(30):
        one.admit(account).release()
    assert len(one.budgets._everywhere._untold) == 10


def test_without_redis_each_copy_counts_by_itself(server, copies):
    """No request fails for it, and once it is back limits are shared again."""
    one, other = copies
    account = key(concurrent_requests=1)
    first = one.admit(account)
    server.kill()
    second = other.admit(account)
    with pytest.raises(LimitReached):
        other.admit(account)
    assert [copy.shared.unavailable for copy in copies] == [False, True]
    first.release()
    second.release()
    server.begin()
    for copy in copies:
        copy.pauses.end()
    until(lambda: not any(copy.shared.unavailable for copy in copies))
    one.admit(account)
    with pytest.raises(LimitReached):
        other.admit(account)
