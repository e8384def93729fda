"""The notifications that systemd gets from a real Gunicorn."""

import signal
import socket

import pytest

from tests.e2e.gunicorn_process import PATIENCE, until

pytestmark = [pytest.mark.slow, pytest.mark.linux]


@pytest.fixture
def systemd(tmp_path):
    """A socket in place of systemd's; `recv` waits for the next message."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(PATIENCE)
        yield channel


def next_ready(systemd):
    """Return the next message that says READY=1, as a mapping."""
    while True:
        message = dict(line.split("=", 1) for line in systemd.recv(4096).decode().splitlines())
        if "READY" in message:
            return message


def test_ready_is_sent_when_the_models_are_loaded(gunicorn, systemd, tmp_path):
    """READY=1 is sent once, by the loaded worker, never by a master that has loaded nothing."""
    server = gunicorn(NOTIFY_SOCKET=str(tmp_path / "notify"))
    server.answering()
    assert systemd.recv(4096) == b"STATUS=Loading the models"
    server.say("load")
    assert next_ready(systemd) == {"READY": "1", "STATUS": "Serving"}


def test_take_over_names_the_new_master(gunicorn, systemd, tmp_path):
    """After SIGUSR2, and after a SIGHUP before it, systemd gets MAINPID together with READY=1."""
    server = gunicorn(NOTIFY_SOCKET=str(tmp_path / "notify"))
    server.say("load")
    next_ready(systemd)
    old = server.ready()
    server.signal(signal.SIGHUP)
    assert next_ready(systemd)["MAINPID"] == str(old["master"])
    server.signal(signal.SIGUSR2)
    said = next_ready(systemd)
    new = until(lambda: (state := server.state()) and state["master"] != old["master"] and state)
    assert said["MAINPID"] == str(new["master"])


def test_watchdog_gets_keep_alives_until_a_restart_is_needed(gunicorn, systemd, tmp_path):
    """WATCHDOG=1 is sent until only a restart helps; then the service ends with a failure."""
    server = gunicorn(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000")
    server.say("load")
    next_ready(systemd)
    assert systemd.recv(4096) == b"WATCHDOG=1"
    assert systemd.recv(4096) == b"WATCHDOG=1"
    server.say("dead")
    assert server.ended() == 4


def test_drain_requests_the_time_it_may_take(gunicorn, systemd, tmp_path):
    """A stop of any DRAIN_SECONDS is waited for: the service says how long it may last, in microseconds."""
    server = gunicorn(NOTIFY_SOCKET=str(tmp_path / "notify"), DRAIN_SECONDS="300")
    server.say("load")
    next_ready(systemd)
    server.ready()  # a worker that has served no request ends without a drain
    server.signal(signal.SIGTERM)
    name, _, microseconds = systemd.recv(4096).decode().partition("=")
    assert name == "EXTEND_TIMEOUT_USEC"
    assert 300e6 < int(microseconds) < 400e6
    assert server.ended() == 0


def test_abort_shows_where_each_thread_is(gunicorn):
    """At SIGABRT, which the watchdog sends, the worker writes the stacks of its threads and ends; another serves."""
    server = gunicorn()
    server.say("load")
    worker = server.ready()["pid"]
    server.send(worker, signal.SIGABRT)
    until(lambda: "was sent SIGABRT" in server.log())
    assert "Fatal Python error: Aborted" in server.log()
    assert "in init_process" in server.log()  # the main thread's, the oldest of some hundred, wherever it is now
    until(lambda: (state := server.state()) and state["pid"] != worker)
