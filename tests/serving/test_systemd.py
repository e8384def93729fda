"""The words for systemd, without a Gunicorn."""

import logging
import os
import socket

import pytest

from serving.systemd import SERVING, Watchdog, notifier
from tests.fakes import Clock


@pytest.mark.parametrize("abstract", [False, True])
def test_message_reaches_the_socket(tmp_path, abstract):
    """A message is one datagram, to a path or to an abstract name, which systemd writes with an @."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}" if abstract else name)
        channel.settimeout(5)
        notifier(f"@{name}" if abstract else name)("READY=1")
        assert channel.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_said(caplog):
    """Outside a unit there is nobody to tell, and that is no trouble."""
    notifier(None)("READY=1")
    assert caplog.text == ""


def test_socket_that_is_gone_is_a_warning(tmp_path, caplog):
    """A message that cannot be sent never ends the service."""
    caplog.set_level(logging.WARNING)
    notifier(str(tmp_path / "gone"))("READY=1")
    assert "systemd was not told 'READY=1': No such file or directory." in caplog.text


def test_readiness_is_left_in_the_units_folder(tmp_path):
    """Who reloads the service reads there which master's models are ready; other messages change nothing."""
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        notify = notifier(str(tmp_path / "notify"), str(tmp_path / "run"))
        notify("STATUS=NOT READY=1")
        assert not (tmp_path / "run" / SERVING).exists()
        notify("MAINPID=1\nREADY=1")
    assert (tmp_path / "run" / SERVING).read_text() == f"{os.getppid()}\n"


def test_watchdog_beats_once_an_interval_until_a_restart_is_needed(caplog):
    """It beats at most once an interval, falls silent when a restart is the cure, and says so once."""
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
    assert caplog.text.count("hears no more") == 1
