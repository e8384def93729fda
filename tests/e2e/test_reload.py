"""How a real Gunicorn reloads: SIGUSR2 hands over when the new models are ready, SIGHUP lets requests wait."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from config import RELOAD_FAILED
from tests.e2e.gunicorn_process import ROOT, until

pytestmark = [pytest.mark.slow, pytest.mark.linux]


@pytest.fixture
def server(gunicorn, tmp_path):
    """A service that is ready and reads a settings file that the test can change."""
    (tmp_path / "settings.env").write_text("")
    server = gunicorn(ENV_FILE=str(tmp_path / "settings.env"))
    server.say("load")
    server.ready()
    return server


class Visitor:
    """Requests the state repeatedly in a thread, and records failures."""

    def __init__(self, server):
        self.server = server
        self.failures = []
        self.answers = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._enough.set()
        self._thread.join(60)

    def _visit(self):
        while not self._enough.is_set():
            try:
                self.answers.append(self.server.get("/state")[1])
            except OSError as error:
                self.failures.append(error)


def test_take_over_loses_no_request(server):
    """SIGUSR2: the old worker serves until the new one is ready and finishes what it admitted; none is refused."""
    old = server.answering()
    with ThreadPoolExecutor() as pool, Visitor(server) as visitor:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGUSR2)
        new = until(lambda: (state := server.state()) and state["pid"] != old["pid"] and state)
        server.say("answer")
        assert admitted.result()[1] == {"answer": "done", "pid": old["pid"]}
        assert server.ended() == 0
    assert visitor.failures == []
    assert all(answer["ready"] for answer in visitor.answers)
    assert new["master"] != old["master"]
    until(lambda: server.masters() == [new["master"]])


def test_release_that_cannot_load_leaves_the_old_one_serving(server):
    """SIGUSR2 into a broken release: the old master never stops serving, the new one ends by itself."""
    old = server.answering()
    server.say("load", "broken")
    with Visitor(server) as visitor:
        server.signal(signal.SIGUSR2)
        until(lambda: "The service cannot start" in server.log())
        until(lambda: server.masters() == [old["master"]])
    assert visitor.failures == []
    assert {answer["pid"] for answer in visitor.answers} == {old["pid"]}


def test_settings_that_cannot_be_used_leave_the_old_ones_serving(server, tmp_path):
    """SIGUSR2 after a mistake in `.env`: it is printed, and that the service goes on."""
    old = server.answering()
    (tmp_path / "settings.env").write_text("TEMPERATURE=hot\n")
    server.signal(signal.SIGUSR2)
    until(lambda: RELOAD_FAILED in server.log())
    until(lambda: server.masters() == [old["master"]])
    assert server.state()["pid"] == old["pid"]


def test_two_take_overs_in_a_row(server):
    """A service that took over can itself be replaced."""
    first = server.answering()["master"]
    server.signal(signal.SIGUSR2)
    second = until(lambda: (state := server.state()) and state["master"] != first and state["master"])
    assert server.ended() == 0
    until(lambda: "has been promoted" in server.log())
    server.send(second, signal.SIGUSR2)
    third = until(lambda: (state := server.state()) and state["master"] not in (first, second) and state["master"])
    until(lambda: server.masters() == [third])


def test_new_master_stopped_before_it_is_ready_leaves_the_old_one(server):
    """A hand-over cancelled during the load has no effect."""
    old = server.answering()
    (server.folder / "load").unlink()
    server.signal(signal.SIGUSR2)
    new = until(lambda: next(iter(set(server.masters()) - {old["master"]}), None))
    until(lambda: server.log().count("Loading avibe") == 2)
    server.send(new, signal.SIGTERM)
    until(lambda: server.masters() == [old["master"]])
    assert server.answering() == old


def test_take_over_of_a_master_that_died_meanwhile_serves_by_itself(server):
    """When the old master dies during the load, the new one continues alone on the same address."""
    old = server.answering()
    (server.folder / "load").unlink()
    server.signal(signal.SIGUSR2)
    until(lambda: server.log().count("Loading avibe") == 2)
    server.send(old["master"], signal.SIGKILL)
    server.send(old["pid"], signal.SIGKILL)
    server.say("load")
    assert until(lambda: (state := server.state()) and state["ready"] and state)["master"] != old["master"]


def test_take_over_runs_what_the_link_names_now(gunicorn, tmp_path):
    """Started in a folder that is a link, the service reloads into the link's current target, and stays there."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        for item in ROOT.iterdir():
            (tmp_path / name / item.name).symlink_to(item)
    current = tmp_path / "current"
    current.symlink_to("first")
    server = gunicorn(cwd=current, PWD=str(current))
    server.say("load")
    assert server.ready()["folder"] == str(tmp_path / "first")
    current.unlink()
    current.symlink_to("second")
    assert server.answering()["lazily"] == str(tmp_path / "first")
    server.signal(signal.SIGUSR2)
    state = until(lambda: (state := server.state()) and state["folder"] != str(tmp_path / "first") and state)
    assert (state["folder"], state["lazily"]) == (str(tmp_path / "second"), str(tmp_path / "second"))


def test_without_room_for_two_copies_requests_wait(server):
    """The old master ends before the new one loads; it answers what it admitted, and later requests wait."""
    old = server.answering()
    server.say("tight")
    with ThreadPoolExecutor() as pool, Visitor(server) as visitor:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGUSR2)
        until(lambda: "The old master is stopped first" in server.log())
        (server.folder / "tight").unlink()
        server.say("answer")
        assert admitted.result()[1] == {"answer": "done", "pid": old["pid"]}
        assert server.ended() == 0
        until(lambda: (state := server.state()) and state["ready"] and state["master"] != old["master"])
    assert visitor.failures == []
    assert all(answer["ready"] for answer in visitor.answers)


def test_hang_up_reloads_in_place_while_requests_wait(server, tmp_path):
    """SIGHUP: the old worker ends before the new one loads, the settings are read anew, no request is refused."""
    old = server.answering()
    with Visitor(server) as visitor:
        server.signal(signal.SIGHUP)
        until(lambda: "Waiting for the old worker" in server.log())
        new = until(lambda: (state := server.state()) and state["pid"] != old["pid"] and state)
    assert visitor.failures == []
    assert new["master"] == old["master"]
    assert new["ready"]


def test_hang_up_with_broken_settings_keeps_the_old_ones(server, tmp_path):
    """A mistake in `.env` is printed at SIGHUP, and the service continues with its current settings."""
    old = server.answering()
    (tmp_path / "settings.env").write_text("TEMPERATURE=hot\n")
    server.signal(signal.SIGHUP)
    new = until(lambda: (state := server.state()) and state["pid"] != old["pid"] and state)
    assert new["port"] == old["port"]
    assert "TEMPERATURE='hot': expected a number from 0 to 2" in server.log()
    assert RELOAD_FAILED in server.log()
