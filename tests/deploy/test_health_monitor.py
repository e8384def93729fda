"""The health monitor reports problems once, restarts only hung processes, and leaves the rest to systemd."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import health_monitor as monitor
from deploy.health_monitor import HOUR, Check, Diagnosis, Memory
from tests.deploy.monitoring.sinks import Mailbox, mail_server

WELL = Check("active", 200, "ready")
SILENT = Check("active", reason="no answer")
STALLED = Check("active", 503, "stalled", "The model is stalled.")
LOADING = Check("active", 503, "loading")


def diagnoses(*checks: Check) -> list[Diagnosis]:
    memory = Memory()
    return [monitor.judge(seen, memory, 30.0 * number) for number, seen in enumerate(checks)]


class Webhook(BaseHTTPRequestHandler):
    heard: list[str] = []

    def do_POST(self) -> None:
        self.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b'{"status": "stalled", "reason": "The model is stalled."}')

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


@pytest.fixture
def webhook() -> Iterator[ThreadingHTTPServer]:
    Webhook.heard = []
    with serving(Webhook) as server:
        yield server


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replace systemctl: the unit has this state, and the tests' process is its main process."""

    def install(state: str) -> None:
        script = f'#!/bin/sh\ncase "$*" in *MainPID*) echo {os.getpid()} ;; *) echo {state} ;; esac\n'
        (tmp_path / "systemctl").write_text(script)
        (tmp_path / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_a_service_that_is_well_is_left_alone() -> None:
    """Nothing is reported or restarted."""
    assert diagnoses(WELL, WELL) == [Diagnosis(), Diagnosis()]


@pytest.mark.parametrize("state", ["activating", "reloading", "deactivating", "inactive", ""])
def test_a_service_on_its_way_or_stopped_is_left_alone(state: str) -> None:
    """systemd bounds a start, and a stop is deliberate."""
    assert diagnoses(*[Check(state)] * 9) == [Diagnosis()] * 9


def test_silence_is_reported_at_the_second_and_restarted_at_the_third_check() -> None:
    """A single failed check may be a coincidence."""
    first, second, third = diagnoses(SILENT, SILENT, SILENT)
    assert first == Diagnosis()
    assert second == Diagnosis("the service is not ready (silent): no answer")
    assert third.restart


def test_an_answer_in_between_begins_the_count_again() -> None:
    """Only consecutive checks count."""
    assert not any(diagnosis.restart for diagnosis in diagnoses(SILENT, SILENT, WELL, SILENT, SILENT))


def test_a_stalled_engine_is_reported_and_left_to_the_watchdog() -> None:
    """A process that responds is never restarted here."""
    found = diagnoses(*[STALLED] * 9)
    assert not any(diagnosis.restart for diagnosis in found)
    assert found[1].trouble == "the service is not ready (stalled): The model is stalled."


def test_loading_is_reported_only_when_it_does_not_end() -> None:
    """No load takes 20 minutes."""
    found = diagnoses(*[LOADING] * (monitor.PASSING_CHECKS + 1))
    assert not any(diagnosis.trouble for diagnosis in found[:-1])
    assert "loading" in found[-1].trouble


def test_what_systemd_gave_up_is_reported_and_not_started() -> None:
    """The cause would still be there."""
    assert diagnoses(Check("failed")) == [
        Diagnosis("systemd has given up on the service; see: journalctl -u avito-ai -e")
    ]


def test_restarts_are_few() -> None:
    """Three per hour, then only reports; an hour later it restarts again."""
    memory = Memory(restarts=[0.0, 60.0, 120.0], silent=2, unwell=2)
    assert not monitor.judge(SILENT, memory, 200.0).restart
    assert monitor.judge(SILENT, memory, HOUR + 60.0).restart


def test_trouble_is_reported_once_and_its_end_too() -> None:
    """Every check is logged; messages are sent at the beginning and at the end only."""
    memory, messages, restarts = Memory(), list[str](), list[int]()
    for diagnosis in (Diagnosis("trouble"), Diagnosis("trouble", restart=True), Diagnosis(), Diagnosis()):
        lines, message = monitor.act(diagnosis, memory, 5.0, lambda: restarts.append(1))
        assert all(line.startswith(("<3>", "<5>")) for line in lines)
        messages.append(message)
        memory.reported = bool(diagnosis.trouble)
    assert messages == ["Avito AI API: trouble", "", "Avito AI API has recovered.", ""]
    assert restarts == [1]
    assert memory.restarts == [5.0]


def test_the_memory_lasts_between_checks(tmp_path: Path) -> None:
    """State that is damaged or of another release counts as none."""
    path = tmp_path / "state"
    monitor.keep(Memory(silent=2, reported=True, restarts=[1.0]), path)
    assert monitor.recall(path) == Memory(silent=2, reported=True, restarts=[1.0])
    path.write_text('{"other": 1}')
    assert monitor.recall(path) == monitor.recall(tmp_path / "none") == Memory()


def test_a_check_uses_the_address_where_the_service_listens(
    webhook: ThreadingHTTPServer, systemctl: Callable[[str], None]
) -> None:
    """Not the address in the settings, which may have been edited since."""
    systemctl("active")
    assert monitor.check() == STALLED


def test_a_unit_that_is_not_active_gets_no_request(systemctl: Callable[[str], None]) -> None:
    """An inactive unit is not requested."""
    systemctl("failed")
    assert monitor.check() == Check("failed")


def test_a_process_without_a_port_is_silent(systemctl: Callable[[str], None]) -> None:
    """A process that does not listen counts as silent."""
    systemctl("active")
    seen = monitor.check()
    assert (seen.answer, seen.reason) == (0, "its main process listens on no port")


def test_trouble_reaches_the_webhook_and_the_exit_status(
    webhook: ThreadingHTTPServer, systemctl: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit fails during a problem, so `systemctl --failed` shows it."""
    systemctl("failed")
    (tmp_path / "address").write_text(f"http://127.0.0.1:{webhook.server_port}/\n")
    words = ["--state", str(tmp_path / "state"), "--webhook", str(tmp_path / "address")]
    assert monitor.main(words) == 1
    assert monitor.main(words) == 1
    assert len(Webhook.heard) == 1
    systemctl("inactive")
    assert monitor.main(words) == 0
    assert Webhook.heard[1] == "Avito AI API has recovered."
    assert capsys.readouterr().out.count("<3>systemd has given up on the service") == 2


def test_a_webhook_that_is_away_stops_nothing(
    systemctl: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is logged; without a file no webhook is called."""
    systemctl("failed")
    (tmp_path / "address").write_text("http://127.0.0.1:9/\n")
    assert monitor.main(["--state", str(tmp_path / "state"), "--webhook", str(tmp_path / "address")]) == 1
    assert "<3>the webhook cannot be reached" in capsys.readouterr().out
    assert monitor.main(["--state", str(tmp_path / "other"), "--webhook", str(tmp_path / "none")]) == 1
    assert "webhook" not in capsys.readouterr().out


def answering(bytes_: bytes) -> type[BaseHTTPRequestHandler]:
    """Return a handler that answers with these bytes, whatever they are."""

    class Handler(Webhook):
        def do_POST(self) -> None:
            self.wfile.write(bytes_)
            self.close_connection = True

    return Handler


SECRET = "T0-a-secret"  # pragma: allowlist secret


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (f"https://hooks.example.com:{SECRET}/", "InvalidURL"),
        (f"https://hooks.example.com/two\nlines/{SECRET}", "InvalidURL"),
        (f"hooks.example.com/services/{SECRET}", "ValueError"),
        (f"slack://hooks.example.com/{SECRET}", "URLError"),
        (f"https://[hooks.example.com/{SECRET}", "ValueError"),
        (f"http://127.0.0.1:9/{SECRET}", "ConnectionRefusedError"),
        (b"HTTP/1.1 404 " + SECRET.encode() + b"\r\nContent-Length: 0\r\n\r\n", "HTTP 404"),
        (SECRET.encode() + b"\r\n\r\n", "BadStatusLine"),
        (b"", "RemoteDisconnected"),
    ],
)
def test_no_webhook_keeps_a_hung_service_from_its_restart(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    address: str | bytes,
    said: str,
) -> None:
    """Whatever is wrong with it: the state is kept, and the journal tells the kind of the error, without the secret."""
    monkeypatch.setattr(monitor, "check", lambda: SILENT)
    restarts: list[int] = []
    words = ["--state", str(tmp_path / "state"), "--webhook", str(tmp_path / "address")]
    monitor.keep(Memory(silent=monitor.RESTART_AFTER - 1), tmp_path / "state")
    with serving(answering(address if isinstance(address, bytes) else b"")) as server:
        url = f"http://127.0.0.1:{server.server_port}/{SECRET}" if isinstance(address, bytes) else address
        (tmp_path / "address").write_text(f"{url}\n")
        assert monitor.main(words, restart=lambda: restarts.append(1)) == 1
    printed = capsys.readouterr()
    assert f"<3>the webhook cannot be reached: {said}\n" in printed.out
    assert SECRET not in printed.out + printed.err
    assert (restarts, monitor.recall(tmp_path / "state").reported) == ([1], True)


def test_the_restart_and_the_state_do_not_wait_for_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit's time may end while a webhook is looked up; the next check then sends the message."""
    then: list[tuple[list[int], Memory, str]] = []
    restarts: list[int] = []

    class Slow(Webhook):
        def do_POST(self) -> None:
            then.append((list(restarts), monitor.recall(tmp_path / "state"), capsys.readouterr().out))
            super().do_POST()

    monkeypatch.setattr(monitor, "check", lambda: SILENT)
    monitor.keep(Memory(silent=monitor.RESTART_AFTER - 1), tmp_path / "state")
    with serving(Slow) as server:
        (tmp_path / "address").write_text(f"http://127.0.0.1:{server.server_port}/\n")
        words = ["--state", str(tmp_path / "state"), "--webhook", str(tmp_path / "address")]
        monitor.main(words, restart=lambda: restarts.append(1))
    ((restarted, memory, printed),) = then
    assert (restarted, len(memory.restarts), memory.silent, memory.reported) == ([1], 1, 0, False)
    assert "restarting it" in printed
    assert monitor.recall(tmp_path / "state").reported


def test_a_webhooks_file_that_is_no_text_stops_nothing(
    systemctl: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is logged."""
    systemctl("failed")
    (tmp_path / "address").write_bytes(b"\xff\xfeh\0")
    assert monitor.main(["--state", str(tmp_path / "state"), "--webhook", str(tmp_path / "address")]) == 1
    assert f"<3>{tmp_path / 'address'} is not a text" in capsys.readouterr().out


@pytest.fixture
def mail(tmp_path: Path) -> Iterator[tuple[Mailbox, Path]]:
    """A mail server, and settings of the monitoring that name it."""
    with mail_server() as (mailbox, port):
        (tmp_path / "password").write_text("a password\n")
        (tmp_path / "monitoring.env").write_text(
            f"EMAIL_TO=one@example.com, two@example.com\nEMAIL_FROM=avito-ai@example.com\n"
            f"SMTP_SERVER=127.0.0.1:{port}\nSMTP_TLS=false\n"
            f"SMTP_USER=avito-ai\nSMTP_PASSWORD_FILE={tmp_path / 'password'}\n"
        )
        yield mailbox, tmp_path / "monitoring.env"


def test_trouble_is_mailed_and_so_is_its_end(
    mail: tuple[Mailbox, Path], systemctl: Callable[[str], None], tmp_path: Path
) -> None:
    """By the server, to the recipients and with the password of the monitoring's settings."""
    mailbox, settings = mail
    words = ["--state", str(tmp_path / "state"), "--mail", str(settings)]
    for state in ("failed", "failed", "inactive"):
        systemctl(state)
        monitor.main(words)
    began, ended = mailbox.mails
    assert began["Subject"].startswith("Avito AI API: systemd has given up on the service")
    assert ended["Subject"] == "Avito AI API has recovered."
    assert began["To"] == "one@example.com, two@example.com"
    assert base64.b64decode(mailbox.logins[0]) == b"\0avito-ai\0a password"


@pytest.mark.parametrize(
    "line",
    [
        "SMTP_SERVER=127.0.0.1:9",
        "SMTP_SERVER=nowhere",
        "SMTP_PASSWORD_FILE=/none",
        "WEBHOOK_URL=hooks.example.com/a password",
    ],
)
def test_a_mail_that_cannot_be_sent_stops_nothing(
    line: str,
    mail: tuple[Mailbox, Path],
    systemctl: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The reason is logged, without a secret; the service is still watched."""
    _, settings = mail
    settings.write_text(f"{settings.read_text()}{line}\n")
    systemctl("failed")
    assert monitor.main(["--state", str(tmp_path / "state"), "--mail", str(settings)]) == 1
    said = capsys.readouterr().out
    assert f"<3>no mail can be sent as {settings} says" in said
    assert "a password" not in said


def test_without_recipients_nothing_is_mailed(
    systemctl: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither without the file nor with one that sets none."""
    systemctl("failed")
    (tmp_path / "monitoring.env").write_text("")
    for number, name in enumerate(("monitoring.env", "none")):
        assert monitor.main(["--state", str(tmp_path / f"state{number}"), "--mail", str(tmp_path / name)]) == 1
    assert "mail" not in capsys.readouterr().out


def test_what_hangs_is_restarted(systemctl: Callable[[str], None], tmp_path: Path) -> None:
    """The third check without a response restarts the unit."""
    systemctl("active")
    restarts: list[int] = []
    for _ in range(3):
        monitor.main(["--state", str(tmp_path / "state")], restart=lambda: restarts.append(1))
    assert restarts == [1]


def test_the_restart_is_systemds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The restart is requested without waiting for the models."""
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\necho "$*" >"{tmp_path}/asked"\n')
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monitor.restart_unit()
    assert (tmp_path / "asked").read_text() == "restart --no-block avito-ai.service\n"
