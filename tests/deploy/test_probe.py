"""deploy/probe.py: the state of ports, reachable URLs and the loading progress."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import probe

Answers = dict[str, list[tuple[int, bytes]]]

LOADING = {"status": "loading", "progress": {"stage": "reading avibe", "loaded_bytes": 2**30, "total_bytes": 2**31}}


@contextmanager
def serving(answers: Answers) -> Iterator[int]:
    """Serve each path's responses in turn, repeating the last; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            waiting = answers.get(self.path, [(404, b"nothing")])
            status, body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


ALIVE: Answers = {"/api/health/live": [(200, body(status="alive"))]}


def test_a_free_port_is_free() -> None:
    """An address that can be bound is free."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probe.describe_port("127.0.0.1", str(port), "/") == "free"


@pytest.mark.parametrize("port", ["", "http", "70000", "-1"])
def test_a_port_that_is_none_is_left_to_the_settings(port: str) -> None:
    """The check of the settings has a better message."""
    assert probe.describe_port("127.0.0.1", port, "/") == "free"


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid", "bad..name"])
def test_an_address_of_another_machine_is_refused_with_its_name(host: str) -> None:
    """HOST must be an address of this machine."""
    assert probe.describe_port(host, "8085", "/").startswith(f"taken HOST={host} is not an address of this machine")


def test_a_port_for_root_alone_is_refused_with_a_way_out() -> None:
    """A privileged port is refused, and another one suggested."""
    assert "needs root" in probe.describe_refusal(errno.EACCES, "127.0.0.1", "80", "/")


def test_the_service_of_this_folder_is_recognized() -> None:
    """A second run finds the first one and prints its address."""
    with serving(ALIVE) as port:
        assert probe.describe_port("127.0.0.1", str(port), os.getcwd()) == f"ours http://127.0.0.1:{port}"


def test_the_service_of_another_folder_is_another_copy(tmp_path: Path) -> None:
    """A second checkout is not mistaken for this one."""
    with serving(ALIVE) as port:
        answer = probe.describe_port("127.0.0.1", str(port), str(tmp_path))
    assert answer.startswith(f"taken Port {port} is held by another copy of Avito AI API")
    assert f"(process {os.getpid()}) in {os.getcwd()}" in answer


def test_another_program_in_this_folder_is_not_the_service() -> None:
    """A program that does not respond like the service is named by its process."""
    with serving({}) as port:
        answer = probe.describe_port("127.0.0.1", str(port), os.getcwd())
    assert f"(process {os.getpid()})" in answer
    assert "another copy" not in answer


def test_another_port_is_offered_that_is_free() -> None:
    """The suggested port is free."""
    with serving({}) as port:
        offered = probe.describe_port("127.0.0.1", str(port), "/").partition("PORT=")[2].split()[0]
        assert probe.bind_error("127.0.0.1", int(offered)) is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8085"),
        ("::", "http://127.0.0.1:8085"),
        ("::1", "http://[::1]:8085"),
        ("localhost", "http://localhost:8085"),
    ],
)
def test_the_address_is_one_that_a_browser_opens(host: str, url: str) -> None:
    """Wildcards become loopback, and IPv6 addresses get brackets."""
    assert probe.address(host, "8085") == url


def test_ipv6_addresses_are_checked_as_such() -> None:
    """A host with colons is bound as IPv6; without IPv6 the reason is an address error."""
    assert probe.bind_error("::1", 0) in (None, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def test_a_listener_that_is_gone_has_no_holder() -> None:
    """A free port has no holder."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert probe.holder_from_proc(port) is None


def test_a_holder_that_cannot_be_seen_is_another_user(tmp_path: Path) -> None:
    """Without a visible process, the message says that it is another user's."""
    assert "a process of another user" in probe.describe_taken("http://127.0.0.1:9", "9", None, "/")


def test_macos_is_asked_through_lsof(stand_in: Callable[[str, str], None]) -> None:
    """Without /proc, lsof provides process, program and folder."""
    folder, program = "p71\\nfcwd\\nn/Users/me/app\\n", "p71\\ncPython\\nf5\\n"
    stand_in("lsof", f'case "$*" in *cwd*) printf "{folder}" ;; *) printf "{program}" ;; esac')
    assert probe.find_holder(8085, proc=Path("/no/proc")) == probe.Holder(71, "Python", "/Users/me/app")


def test_lsof_that_sees_nothing_names_no_holder(stand_in: Callable[[str, str], None]) -> None:
    """Another user's process is not visible."""
    stand_in("lsof", "exit 1")
    assert probe.find_holder(8085, proc=Path("/no/proc")) is None


def test_without_proc_and_lsof_no_holder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system with neither is not an error."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.find_holder(8085, proc=Path("/no/proc")) is None


@pytest.mark.parametrize("answer", [b"<html>", b"[1]"])
def test_an_answer_that_is_no_json_object_counts_as_none(answer: bytes) -> None:
    """Another program's response is ignored."""
    with serving({"/x": [(200, answer)]}) as port:
        assert probe.fetch_json(f"http://127.0.0.1:{port}/x") == (0, {})


def test_an_index_that_answers_is_reachable() -> None:
    """A package index is reachable if it responds without an error."""
    with serving({"/torch/": [(200, b"")]}) as port:
        assert probe.main(["reachable", f"http://127.0.0.1:{port}/torch/"]) == 0
        assert probe.main(["reachable", f"http://127.0.0.1:{port}/nothing/"]) == 1
    assert probe.main(["reachable", f"http://127.0.0.1:{port}/torch/"]) == 1
    assert probe.main(["reachable", "no address"]) == 1
    assert probe.main(["reachable", "http://127.0.0.1:word/"]) == 1


def test_the_address_is_printed_when_the_models_are_ready(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is printed meanwhile, each line at intervals and with the seconds since the start, and the address."""
    pauses: list[float] = []
    later = LOADING | {"progress": {"stage": "warming avibe"}}
    answers = [(503, body(**LOADING))] * 3 + [(503, body(**later))] * 80 + [(200, body(status="ready"))]
    with serving({"/api/health/ready": answers}) as port:
        probe.announce(os.getpid(), "127.0.0.1", str(port), pauses.append, lambda: sum(pauses))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "==> Loading: reading avibe, 1.00 of 2.00 GiB",
        "==> Loading: warming avibe, 5 s",
        "==> Loading: warming avibe, 20 s",
        f"==> Ready at http://127.0.0.1:{port} (Ctrl+C stops it)",
    ]
    assert len(pauses) == 83


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        ({"loaded_bytes": 0, "total_bytes": 0}, "Loading: stage"),
        ({"loaded_bytes": 1_700_000, "total_bytes": 3_400_000}, "Loading: stage, 1.6 of 3.2 MiB"),
        ({"loaded_bytes": 512, "total_bytes": 2048}, "Loading: stage, 0.5 of 2.0 KiB"),
        ({"loaded_bytes": 2**30, "total_bytes": 2**34}, "Loading: stage, 1.00 of 16.00 GiB"),
        ({"stage": "waiting"}, "Loading: starting"),
    ],
)
def test_progress_has_a_unit_that_shows_it(progress: dict[str, object], line: str) -> None:
    """Small models are not 0.00 of 0.00 GiB."""
    assert probe.describe_progress({"progress": {"stage": "stage", **progress}}) == line


def test_a_server_on_all_addresses_has_one_for_the_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is printed below that of this machine; one on loopback has none."""
    monkeypatch.setattr(probe, "network_url", lambda host, port: f"http://10.0.0.7:{port}" if host == "::" else "")
    with serving({"/api/health/ready": [(200, body(status="ready"))]}) as port:
        for host in ("::", "127.0.0.1"):
            probe.announce(os.getpid(), host, str(port))
    lines = capsys.readouterr().out.splitlines()
    ready = f"==> Ready at http://127.0.0.1:{port} (Ctrl+C stops it)"
    assert lines == [
        ready,
        f"==> In this network: http://10.0.0.7:{port}, for everybody in it and your phone too",
        ready,
    ]


def test_the_address_in_the_network_is_one_of_this_machine() -> None:
    """It can be bound, unless there is no network at all; a host that was chosen needs no other."""
    found = probe.network_url("0.0.0.0", "8085")
    if found:
        assert probe.bind_error(found.removeprefix("http://").removesuffix(":8085"), 0) is None
    assert probe.network_url("127.0.0.1", "8085") == probe.network_url("10.1.2.3", "8085") == ""


def test_a_service_that_ended_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The background process exits with the service and prints nothing if that failed, which was logged."""
    gone = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(gone, 0)
    probe.announce(gone, "127.0.0.1", "9")
    assert capsys.readouterr().out == ""


def test_nothing_is_printed_while_nothing_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed before the server has opened its port."""
    assert probe.describe_progress({}) == ""
    assert probe.describe_progress({"progress": "soon"}) == ""


def test_the_port_command_prints_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    """deploy.sh reads one line."""
    assert probe.main(["port", "127.0.0.1", "none", "/"]) == 0
    assert capsys.readouterr().out == "free\n"


def test_the_announcement_is_a_command_too(capsys: pytest.CaptureFixture[str]) -> None:
    """deploy.sh starts the companion by its process id."""
    with serving({"/api/health/ready": [(200, body(status="ready"))]}) as port:
        assert probe.main(["announce", str(os.getpid()), "127.0.0.1", str(port)]) == 0
    assert "==> Ready at" in capsys.readouterr().out


def test_an_unknown_command_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown command prints the usage."""
    assert probe.main(["what"]) == 2
    assert "probe.py port HOST PORT ROOT" in capsys.readouterr().err


@pytest.mark.linux
def test_a_process_that_ended_is_not_alive() -> None:
    """Nor before its parent has asked for its status: whoever reads the output of both would wait for ever."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not probe.alive(process.pid)
    assert probe.alive(os.getpid())
