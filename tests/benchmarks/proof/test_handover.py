"""The program that reloads under load tells a new master from a worker, which has children as well."""

import json
import socket
import struct
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from benchmarks.proof.handover import LOAD, _judge_stop, _masters
from benchmarks.proof.report import Report

BUSY = b'{"error": "not_ready"}'


def process(pid, environ, *children):
    return SimpleNamespace(pid=pid, environ=lambda: environ, children=lambda: list(children))


def test_a_worker_with_its_own_processes_is_no_master():
    """Also where the old master replaced another one, whose number its worker still carries."""
    decoder, environ = process(9, {}), {"GUNICORN_PID": "1"}
    worker = process(3, environ, decoder)
    assert _masters(process(2, environ, worker)) == []
    new = process(4, {"GUNICORN_PID": "2"}, process(5, {"GUNICORN_PID": "2"}, decoder))
    assert _masters(process(2, environ, worker, new)) == [new]


def test_a_master_counts_from_its_worker_on():
    """Before that it may still fail to begin."""
    assert _masters(process(2, {}, process(4, {"GUNICORN_PID": "2"}))) == []


def seen_of(response: bytes, reset: bool = False) -> list[dict]:
    """Return what a short load have seen of a server that answers so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, response, reset), daemon=True).start()
        code = (
            "import json, sys; sys.path.insert(0, sys.argv[1]); import load\n"
            "clients = [load.Client(int(sys.argv[2]), kind) for kind in ('answer', 'stream')]\n"
            "for client in clients: client.run()\n"
            "print(json.dumps([client.seen for client in clients]))"
        )
        command = [sys.executable, "-c", code, str(LOAD.parent), str(server.getsockname()[1])]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)


def _serve(server: socket.socket, response: bytes, reset: bool) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # the test has ended
            return
        with client:
            client.recv(65536)
            client.sendall(response)
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    ("response", "lost"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"", True),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 503 No\r\nContent-Length: 22\r\n\r\n" + BUSY, True),
        (b"HTTP/1.1 503 No\r\nRetry-After: 5\r\nContent-Length: 22\r\n\r\n" + BUSY, False),
    ],
)
def test_what_a_stop_loses_is_seen(response, lost):
    """An answer that is cut off, at whatever byte; who is told to come again has lost nothing."""
    report = Report("handover", "")
    seen = seen_of(response)
    _judge_stop(report, seen, signalled=seen[0]["began"] + 1e-9, ended=seen[0]["ended"])
    assert [one["status"] for one in seen] == [int(response[9:12] or 0)] * 2
    assert (report.lost, report.tried) == (2 if lost else 0, 2)
    assert [finding.measured for finding in report.findings[:1]] == [1]


def test_a_connection_that_is_reset_is_lost():
    """Even where nothing of an answer had come."""
    assert [bool(one["trouble"]) and not one["refused"] for one in seen_of(b"", reset=True)] == [True, True]


def test_who_finds_nobody_to_connect_to_has_lost_nothing():
    """The kernel refuses connections behind a stop, and an idle stop proves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import load; client = load.Client(int(sys.argv[2]), 'form')"
    code += "; client.run(); print(client.seen['refused'], client.seen['status'])"
    command = [sys.executable, "-c", code, str(LOAD.parent), str(port)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert told.stdout.split() == ["True", "0"]
    report = Report("handover", "")
    _judge_stop(report, [], signalled=0.0, ended=61.0)
    assert [finding.holds for finding in report.findings] == [False, False]
