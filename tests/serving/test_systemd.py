"""Notifications to systemd, without Gunicorn."""

import logging
import os
import socket

import pytest

from serving.systemd import SERVING, Watchdog, notifier
from tests.fakes import PATIENCE, Clock


@pytest.mark.parametrize("abstract", [False, True])
def test_message_reaches_the_socket(tmp_path, abstract):
    """A message is one datagram, to a path or to an abstract name that systemd writes with an @."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}" if abstract else name)
        channel.settimeout(PATIENCE)
        notifier(f"@{name}" if abstract else name)("READY=1")
        assert channel.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_sent(caplog):
    """Outside a unit there is no socket, which is not an error."""
    notifier(None)("READY=1")
    assert caplog.text == ""


def test_missing_socket_is_a_warning(tmp_path, caplog):
    """A message that cannot be sent never ends the service."""
    caplog.set_level(logging.WARNING)
    notifier(str(tmp_path / "gone"))("READY=1")
    assert "systemd could not be sent 'READY=1': No such file or directory." in caplog.text


def test_readiness_is_left_in_the_units_folder(tmp_path):
    """The pid of the master whose models are ready is written at READY=1 only, for the reload."""
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        notify = notifier(str(tmp_path / "notify"), str(tmp_path / "run"))
        notify("STATUS=NOT READY=1")
        assert not (tmp_path / "run" / SERVING).exists()
        notify("MAINPID=1\nREADY=1")
    assert (tmp_path / "run" / SERVING).read_text() == f"{os.getppid()}\n"


def test_watchdog_sends_keep_alives_until_a_restart_is_needed(caplog):
    """Keep-alives are sent at most once an interval and stop, with one log line, when a restart is needed."""
    clock, said, dead = Clock(), [], []
    watchdog = Watchdog(said.append, 5.0, lambda: bool(dead), clock)
    watchdog.beat()
    clock.advance(4.9)
    watchdog.beat()
    assert said == ["WATCHDOG=1"]
    clock.advance(0.2)
    watchdog.beat()
    assert said == ["WATCHDOG=1"] * 2
    dead.append(True)
    for _ in range(3):
        clock.advance(5)
        watchdog.beat()
    assert said == ["WATCHDOG=1"] * 2
    assert caplog.text.count("no further watchdog keep-alives are sent") == 1
