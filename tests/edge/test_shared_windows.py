"""Limits that copies share: one budget over all of them, and what happens while their storage is unavailable."""

import contextlib
import queue
import signal
import socket
import threading
import time
from functools import partial

import pytest
from limits.errors import StorageError

from edge.rate_limit import OverBudget, RateLimiter
from edge.shared_windows import REDIS_PAUSE, REDIS_TIMEOUT, SharedWindows, StoredWindows, redis_windows
from tests.e2e.gunicorn_process import until
from tests.edge.limit_storage import ListedEntries
from tests.fakes import PATIENCE, Clock
from tests.system_process import Redis
from tests.threads import together
from tests.timing import NewThreads


class FlakyWindows(ListedEntries):
    """A shared storage that can be unavailable, or give the last request to another copy of the service."""

    away = False
    lost_race = False
    asked = 0

    def get_moving_window(self, key, limit, expiry):
        self._answer()
        return super().get_moving_window(key, limit, expiry)

    def acquire_entry(self, key, limit, expiry, amount=1):
        self._answer()
        return not self.lost_race and super().acquire_entry(key, limit, expiry, amount)

    def _answer(self):
        self.asked += 1
        if self.away:
            cause = ConnectionError("redis://user:password@host")
            raise StorageError(cause) from cause


class Pauses:
    """The pauses between retries: each lasts until the test ends it, the last until the test is over."""

    def __init__(self):
        self.begun, self._ends = queue.Queue(), queue.Queue()

    def __call__(self, seconds):
        self.begun.put(seconds)
        return self._ends.get() == "test"

    def end(self):
        """End the current pause, or the next one."""
        assert self.begun.get(timeout=PATIENCE) == REDIS_PAUSE
        self._ends.put("wait")

    def close(self):
        """End the retrying thread, if there is one."""
        self._ends.put("test")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def storage(clock):
    return FlakyWindows(clock)


@pytest.fixture
def pauses():
    with contextlib.closing(Pauses()) as pauses:
        yield pauses


@pytest.fixture
def shared(storage, clock, pauses):
    return SharedWindows(StoredWindows(storage, clock), pauses)


def spend_all(limiter, times, client="1.1.1.1"):
    """Spend once for each; return what was left each time."""
    return [limiter.spend("generation", client).remaining for _ in range(times)]


def refused(limiter, client="1.1.1.1"):
    """Return whether one more request is over the budget."""
    try:
        limiter.spend("generation", client)
    except OverBudget:
        return True
    return False


def test_copies_share_their_limits(clock, storage):
    """Two copies of the service with one storage share one budget."""
    copies = [RateLimiter(4, 0, SharedWindows(StoredWindows(storage, clock)), clock) for _ in range(2)]
    for copy in copies:
        spend_all(copy, 2)
    assert all(refused(copy) for copy in copies)


def test_a_request_that_another_copy_takes_first_is_refused(clock, shared, storage):
    """Another copy may take the last request between check and charge."""
    limiter = RateLimiter(4, 0, shared, clock)
    storage.lost_race = True
    assert refused(limiter)
    assert not shared.unavailable


def test_limits_are_local_while_redis_is_unavailable(clock, shared, storage, pauses, caplog):
    """No request fails or waits; one line reports the outage and one its end; every failed attempt is counted."""
    caplog.set_level("INFO")
    limiter = RateLimiter(3, 0, shared, clock)
    storage.away = True
    assert spend_all(limiter, 3) == [2, 1, 0]
    assert refused(limiter)
    assert storage.asked == 1, "only the first call waits for an unavailable storage"
    pauses.end()
    until(lambda: limiter.shared_failures == 2)
    assert refused(limiter)
    assert shared.unavailable
    storage.away = False
    pauses.end()
    until(lambda: not shared.unavailable)
    assert spend_all(limiter, 3) == [2, 1, 0]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "unavailable (ConnectionError)" in lines[0]
    assert "available again" in lines[1]
    assert "password" not in caplog.text


def test_calls_that_meet_the_outage_together_start_one_thread_and_say_one_line(shared, caplog):
    """Each is counted."""
    threads = NewThreads()
    for _ in range(5):
        shared.failed(OSError())
    assert shared.failures == 5
    assert len(threads) == 1
    assert len(caplog.records) == 1


def test_without_room_for_a_thread_the_next_request_tries_again(shared, monkeypatch):
    """The storage is not given up for good."""

    def fail(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        shared.failed(OSError("away"))
    assert not shared.unavailable


def test_an_unreachable_redis_fails_no_request(clock, pauses):
    """With the real client and a closed port, limits are local immediately."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        shared = SharedWindows(redis_windows(f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"), pauses)
        limiter = RateLimiter(2, 0, shared, clock)
        spend_all(limiter, 2)
        assert refused(limiter)
    assert limiter.shared_failures == 1


# --- a real Redis ---


class Impostor:
    """A server on a free port that sends the same to everybody, and is no Redis, or one with another password."""

    def __init__(self, reply):
        self._reply, self._listener, self._open = reply, socket.create_server(("127.0.0.1", 0)), []
        self.url = f"redis://:wrong-password@127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._serving = threading.Thread(target=self._serve)

    def __enter__(self):
        self._serving.start()
        return self

    def __exit__(self, *exception):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._serving.join(PATIENCE)
        for connection in [*self._open, self._listener]:
            connection.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                connection.recv(65536)
                connection.sendall(self._reply)
                if not self._reply:
                    connection.shutdown(socket.SHUT_RDWR)


IMPOSTORS = {
    "another server": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "noise": bytes(range(128, 256)) + b"\r\n",
    "a wrong password": b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
    "no password": b"-NOAUTH Authentication required.\r\n",
    "a wrong type": b":1\r\n*1\r\n$-1\r\n+OK\r\n",
    "a number that is none": b":many\r\n",
    "one that hangs up": b"",
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_a_wrong_storage_is_reported_at_the_start_and_fails_nothing(pauses, caplog, name):
    """One warning that names the setting and not the password; limits are local."""
    with Impostor(IMPOSTORS[name]) as impostor:
        limiter = RateLimiter(2, 0, SharedWindows(redis_windows(impostor.url), pauses))
        limiter.begin()
        until(lambda: caplog.records)
        assert [limiter.spend("generation", "a").remaining for _ in range(2)] == [1, 0]
        with pytest.raises(OverBudget):
            limiter.spend("generation", "a")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "RATE_LIMIT_STORAGE is unavailable" in record.getMessage()
    assert "wrong-password" not in caplog.text


def test_limits_in_memory_are_not_tried(caplog):
    """There is nothing to report, and no thread."""
    threads = threading.active_count()
    RateLimiter(1, 0).begin()
    assert threading.active_count() == threads


@pytest.fixture
def redis(tmp_path):
    with Redis(tmp_path / "redis") as redis:
        yield redis


class Copy:
    """The rate limiter of one copy of the service with this Redis."""

    def __init__(self, redis, per_minute):
        self.pauses = Pauses()
        self.shared = SharedWindows(redis_windows(redis.url), self.pauses)
        self.limiter = RateLimiter(per_minute, 0, self.shared)


@pytest.fixture
def new_copy(redis):
    """Return a copy with this limit per minute."""
    with contextlib.ExitStack() as made:

        def make(per_minute):
            copy = Copy(redis, per_minute)
            made.enter_context(contextlib.closing(copy.pauses))
            made.callback(copy.shared.windows.storage.storage.close)
            return copy

        yield make


@pytest.fixture
def patient(monkeypatch):
    """Redis is waited for on a busy machine, too."""
    monkeypatch.setattr("edge.shared_windows.REDIS_TIMEOUT", PATIENCE)


def seconds(call):
    """Return the seconds that a call takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


@pytest.mark.needs("redis-server")
@pytest.mark.usefixtures("patient")
def test_copies_share_their_limits_in_redis(redis, new_copy):
    """Three copies share one exact budget, in turns and in concurrent threads."""
    copies, won = [new_copy(20) for _ in range(3)], []

    def knock(copy):
        for _ in range(10):
            if not refused(copy.limiter):
                won.append(copy)

    together(*(partial(knock, copy) for copy in copies for _ in range(2)))
    assert len(won) == 20
    assert not any(copy.shared.unavailable for copy in copies)


@pytest.mark.needs("redis-server")
@pytest.mark.usefixtures("patient")  # a request that waited for it would be noticed
def test_redis_that_is_killed_and_comes_back_fails_and_delays_nothing(redis, new_copy, caplog):
    """Limits are local in each copy, then shared again, without the counts that Redis lost."""
    caplog.set_level("INFO")
    one, other = new_copy(3), new_copy(3)
    assert spend_all(one.limiter, 2) == [2, 1]
    redis.kill()
    assert seconds(lambda: spend_all(one.limiter, 3)) < PATIENCE / 2
    assert refused(one.limiter), "the budget of this copy alone is spent"
    assert spend_all(other.limiter, 3) == [2, 1, 0], "the other copy has one of its own"
    assert one.limiter.shared_failures == other.limiter.shared_failures == 1
    redis.begin()
    for copy in (one, other):
        copy.pauses.end()
    until(lambda: not (one.shared.unavailable or other.shared.unavailable))
    assert spend_all(one.limiter, 2) == [2, 1]
    assert spend_all(other.limiter, 1) == [0]
    assert refused(one.limiter)
    said = [record.getMessage() for record in caplog.records if "RATE_LIMIT_STORAGE" in record.getMessage()]
    assert [("unavailable" in line, "available again" in line) for line in said] == [(True, False)] * 2 + [
        (False, True)
    ] * 2


@pytest.mark.needs("redis-server")
def test_redis_that_hangs_delays_one_call_by_its_time_out(redis, new_copy):
    """A stopped Redis accepts connections but does not answer: the first call times out, later ones do not use it."""
    copy = new_copy(100)
    spend_all(copy.limiter, 1)
    redis.send(signal.SIGSTOP)
    assert REDIS_TIMEOUT / 2 < seconds(lambda: spend_all(copy.limiter, 1)) < PATIENCE
    spend_all(copy.limiter, 50)
    assert copy.limiter.shared_failures == 1
    redis.send(signal.SIGCONT)
    copy.pauses.end()
    until(lambda: not copy.shared.unavailable)


@pytest.mark.needs("redis-server")
@pytest.mark.usefixtures("patient")
def test_redis_that_takes_no_writes_is_not_available(redis, new_copy):
    """Retries do what a request does, so a read-only Redis, such as a replica, counts as unavailable."""
    copy = new_copy(100)
    copy.shared.windows.storage.storage.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert spend_all(copy.limiter, 1) == [99]
    assert copy.shared.unavailable
    copy.pauses.end()
    until(lambda: copy.limiter.shared_failures == 2)
    assert copy.shared.unavailable
    copy.shared.windows.storage.storage.execute_command("REPLICAOF", "NO", "ONE")
    copy.pauses.end()
    until(lambda: not copy.shared.unavailable)
