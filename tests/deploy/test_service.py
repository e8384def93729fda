"""Addresses, loading progress and answers of a running service."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
from werkzeug.serving import BaseWSGIServer, make_server

from app_production import create_app
from config import load_settings
from deploy import ask, service, smoke
from deploy.ask import WrongAnswer
from engine.types import Status
from models import ModelSet

ROOT = Path(__file__).parents[2]
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.fixture
def base(server: BaseWSGIServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc where process 7 listens on 127.0.0.1:8085 and [::]:80, and another one on 9."""
    (tmp_path / "7/fd").mkdir(parents=True)
    for number, inode in ((3, 111), (4, 222), (5, 333)):
        (tmp_path / f"7/fd/{number}").symlink_to(f"socket:[{inode}]")
    loopback = socket.inet_aton("127.0.0.1")[::-1].hex() if sys.byteorder == "little" else "7f000001"
    rows = [
        f"   0: {loopback.upper()}:1F95 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 111 1\n",
        "   1: 00000000:0009 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 999 1\n",
        "   2: 00000000:0008 00000000:0000 01 00000000:00000000 00:00000000 00000000  0 0 333 1\n",
    ]
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(HEAD + "".join(rows))
    row = f"   0: {'0' * 32}:0050 {'0' * 32}:0000 0A 00000000:00000000 00:00000000 00000000  0 0 222 1\n"
    (tmp_path / "net/tcp6").write_text(HEAD + row)
    return tmp_path


def test_a_process_listens_where_its_own_sockets_do(proc: Path) -> None:
    """Only its own listening sockets, IPv4 and IPv6 in the usual notation."""
    assert service.listeners(7, proc) == [("127.0.0.1", 8085), ("::", 80)]
    assert service.url_of(7, proc) == "http://127.0.0.1:8085"


def test_a_process_that_is_gone_listens_nowhere(proc: Path) -> None:
    """Neither an error nor an address."""
    assert service.listeners(8, proc) == []
    assert service.url_of(8, proc) is None


def test_the_kernels_own_tables_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A socket of this process is found, and no longer once it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert service.main(["listens", str(os.getpid())]) == 0
    assert f"127.0.0.1 {port}\n" in capsys.readouterr().out
    assert service.main(["listens", "999999999"]) == 1


def test_the_units_properties_are_asked_of_systemd(stand_in: Callable[[str, str], None]) -> None:
    """A unit without a main process, and a machine without systemd, have the process 0."""
    stand_in("systemctl", 'case "$*" in "show --property MainPID --value x") echo 71 ;; *) echo "[not set]" ;; esac')
    assert service.main_pid("x") == 71
    assert service.main_pid("y") == 0


def test_without_systemd_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing systemctl is no error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert service.unit_property("x", "MainPID") == ""


def test_the_exit_status_of_what_is_watched_is_kept(stand_in: Callable[[str, str], None]) -> None:
    """For short and long commands."""
    stand_in("systemctl", "echo 0")
    assert service.main(["watch", "x", sys.executable, "-c", "raise SystemExit(3)"]) == 3
    slow = "import threading; threading.Event().wait(0.1); raise SystemExit(4)"
    assert service.watch("x", [sys.executable, "-c", slow], every=0.01) == 4


def test_a_service_that_is_ready_has_no_progress(base: str, stand_in: Callable[[str, str], None]) -> None:
    """During a reload the main process is the old one, which has finished loading."""
    stand_in("systemctl", f"echo {os.getpid()}")
    assert service.progress("x") == ""


def test_the_state_is_printed_in_words(base: str, server: BaseWSGIServer, models: ModelSet) -> None:
    """Readiness, each model and the reason."""
    ready, lines = service.state(os.getpid())
    assert ready
    assert "avibe ready, avision ready, on the CPU" in lines[0]
    models.get("avibe").become(Status.STALLED)
    ready, lines = service.state(os.getpid())
    assert not ready
    assert "stalled" in lines[0]
    assert len(lines) == 2
    assert service.main(["state", str(os.getpid())]) == 1


def test_a_process_that_does_not_listen_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    """The output says so."""
    assert service.main(["state", "999999999"]) == 1
    assert service.main(["url", "999999999"]) == 0
    assert capsys.readouterr().out == "==> readiness  the process does not listen\nnowhere\n"


def test_a_port_that_does_not_speak_http_is_no_answer() -> None:
    """A socket without a response is reported with its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        assert "no answer from" in service.state(os.getpid())[1][0]


def test_an_unknown_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command prints the usage."""
    assert service.main(["watch", "x"]) == 2
    assert ask.main(["x"]) == 2
    assert "listens PID" in capsys.readouterr().err


def test_a_service_is_proven_by_an_answer_of_each_model(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Readiness, one text and one image."""
    assert ask.main([str(os.getpid())]) == 0
    said = capsys.readouterr().out
    assert "Avibe answered in" in said
    assert "Avision answered in" in said


def test_the_answers_that_are_asked_for_are_those_of_a_user(base: str, models: ModelSet) -> None:
    """They are as long as the settings have it: settings that leave a prompt no room fail the release."""
    ask.generate_text(base)
    ask.analyze_image(base)
    submitted = [models.get(name).submitted for name in ("avibe", "avision")]
    assert [[one.sampling.max_tokens for one in requests] for requests in submitted] == [[256], [200]]


def test_a_spent_budget_does_not_condemn_a_release(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate-limited check is not a failure of the release."""
    ask.prove(base)
    ask.prove(base)
    assert capsys.readouterr().out.count("was not checked") == 2


@pytest.fixture
def asks_for_keys(models: ModelSet, tmp_path: Path) -> Iterator[str]:
    """The address of a service that answers holders of a key alone."""
    (keys := tmp_path / "keys").write_text("# none yet\n", encoding="utf-8")
    app = create_app(load_settings({"AUTH": "keys", "API_KEYS_FILE": str(keys)}, None), models)
    serving = make_server("127.0.0.1", 0, app, threaded=True)
    thread = Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join(60)
    serving.server_close()


def test_a_service_that_asks_for_keys_is_not_condemned(asks_for_keys: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The deployment has no key of its own; that it is asked for one is what `AUTH=keys` is for."""
    ask.prove(asks_for_keys)
    assert capsys.readouterr().out.count("was not checked: AUTH asks each client for a key") == 2


def test_a_service_that_is_not_ready_is_not_proven(
    base: str, models: ModelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has URL, status and body."""
    models.get("avibe").become(Status.STALLED)
    assert ask.main([str(os.getpid())]) == 1
    assert "/api/health/ready answered 503 instead of 200" in capsys.readouterr().out


def test_a_service_that_listens_nowhere_is_not_proven() -> None:
    """A process that does not listen fails the check."""
    assert ask.main(["999999999"]) == 1


def test_no_answer_at_all_is_a_wrong_one() -> None:
    """The message has the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(WrongAnswer, match=f"127.0.0.1:{port}/x did not answer"):
        ask.request(f"http://127.0.0.1:{port}/x")


def test_the_smoke_tests_pass_against_the_service(base: str) -> None:
    """Each of them, apart from this server's rate limit."""
    for check in (smoke.check_page, smoke.check_text, smoke.check_image, smoke.check_figures):
        check(base)


@pytest.mark.parametrize("check", smoke.CHECKS, ids=lambda check: check.__name__)
def test_each_smoke_test_can_fail(check: Callable[[str], None]) -> None:
    """A server that returns an empty page for everything passes none of them."""

    def app(environ: object, start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'{"application": {"successful_requests": 0}, "success": false}']

    serving = make_server("127.0.0.1", 0, app)
    thread = Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    try:
        with pytest.raises(WrongAnswer):
            check(f"http://127.0.0.1:{serving.server_port}")
    finally:
        serving.shutdown()
        thread.join(60)
        serving.server_close()


def test_the_smoke_tests_read_no_setting_of_the_operator(tmp_path: Path) -> None:
    """They have their own environment: an empty settings file, the demo models, the CPU, loopback."""
    environment = smoke.environment(tmp_path, 18085)
    assert Path(environment["ENV_FILE"]).read_text() == ""
    asked = {"DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", "HOST": "127.0.0.1", "VIBE_MODEL_DIR": "demo"}
    assert asked.items() <= environment.items()
    assert load_settings(environment, Path(environment["ENV_FILE"])).production


@pytest.mark.parametrize(
    ("program", "limit", "sentence"),
    [
        ("print('no GPU'); raise SystemExit(3)", 30.0, "exited with status 3 before it was ready.\nno GPU"),
        ("import sys; print('begun', flush=True); sys.stdin.read()", 0.5, "was not ready in time"),
    ],
)
def test_a_release_that_does_not_start_fails_its_smoke_tests(
    tmp_path: Path, program: str, limit: float, sentence: str
) -> None:
    """The message has its last lines, and no process is left."""
    command = [sys.executable, "-c", program.replace("sys.stdin.read()", "__import__('signal').pause()")]
    with pytest.raises(WrongAnswer, match=sentence):
        smoke.run(tmp_path, command, limit)


FAKE = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"status": "ready"}')
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(%d))
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.mark.parametrize(("status", "passes"), [(0, True), (5, False)])
def test_the_stop_is_tested_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, passes: bool) -> None:
    """A stopped service exits with status 0."""
    monkeypatch.setattr(smoke, "CHECKS", ())
    command = [sys.executable, "-c", FAKE % status]
    if passes:
        assert "smoke tests pass" in smoke.run(tmp_path, command)
    else:
        with pytest.raises(WrongAnswer, match="exited with status 5 at SIGTERM"):
            smoke.run(tmp_path, command)


@pytest.mark.parametrize(
    "busy", [ask.NoAnswer("Connection reset by peer"), ask.NoAnswer("answered 503 instead of 200")]
)
def test_a_full_service_is_asked_again(monkeypatch: pytest.MonkeyPatch, busy: WrongAnswer) -> None:
    """Clients that fill it must not take an update back; what is wrong is wrong at once, and fullness ends."""
    monkeypatch.setattr(ask, "PAUSE", 0.0)
    answers = iter([busy, busy, None])

    def check(base: str) -> None:
        if answer := next(answers):
            raise answer

    ask.again_while_full(check, "http://here")
    assert list(answers) == []
    answers = iter([WrongAnswer("says loading"), None])
    with pytest.raises(WrongAnswer, match="loading"):
        ask.again_while_full(check, "http://here")
    answers = iter([busy, None])
    with pytest.raises(WrongAnswer, match=str(busy)):
        ask.again_while_full(check, "http://here", seconds=0.0)
