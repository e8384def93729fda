"""Redis, the database and the collector of traces, each working, away and wrong."""

from __future__ import annotations

import socketserver
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis

from checks.finding import State
from checks.outside import check_collector, check_database, check_redis, check_upstreams
from config import Settings, load_settings
from tests.e2e.gunicorn_process import free_port
from tests.system_process import Redis
from tests.telemetry.tracing.otlp_sink import otlp_sink


def settings(**environ: str) -> Settings:
    return load_settings(environ, None, lambda: False)


def test_what_is_not_set_is_off(tmp_path: Path) -> None:
    """No Redis and no collector, which is what the defaults are."""
    assert check_redis(settings()).state is State.OFF
    assert check_collector(settings()).state is State.OFF


def test_a_redis_or_collector_that_is_away_has_failed() -> None:
    """Its address is told, its password is not."""
    port = free_port()
    found = check_redis(settings(RATE_LIMIT_STORAGE=f"redis://:secret@127.0.0.1:{port}/0"))
    assert (found.state, str(port) in found.detail, "secret" in found.detail) == (State.FAILED, True, False)
    assert "Connection refused" in found.detail
    found = check_collector(settings(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://me:secret@127.0.0.1:{port}"))
    assert (found.state, str(port) in found.detail, "secret" in found.detail) == (State.FAILED, True, False)


def test_a_collector_is_sent_an_empty_export() -> None:
    """One that takes it works, with the headers of the settings."""
    with otlp_sink() as sink:
        found = check_collector(
            settings(OTEL_EXPORTER_OTLP_ENDPOINT=sink.address, OTEL_EXPORTER_OTLP_HEADERS="x-tenant=1")
        )
        assert found.state is State.OK, found
        sink.status = 403
        found = check_collector(settings(OTEL_EXPORTER_OTLP_ENDPOINT=sink.address))
    assert (found.state, "403" in found.detail) == (State.FAILED, True)
    assert sink.paths == ["/v1/traces"] * 2
    assert [{name.lower(): value for name, value in one.items()}["x-tenant"] for one in sink.headers[:1]] == ["1"]


@pytest.mark.parametrize(("status", "state"), [(200, State.OK), (404, State.OK), (401, State.FAILED)])
def test_a_server_that_answers_for_a_model_is_asked(status: int, state: State) -> None:
    """For its models, with its key; one without such a list works, one that wants another key does not."""
    asked = []

    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        found = check_upstreams(settings(VIBE_UPSTREAM=url, VIBE_UPSTREAM_KEY="a-key"))
        server.shutdown()
    assert (found.state, asked) == (state, [("/v1/models", "Bearer a-key")])
    assert check_upstreams(settings(VIBE_UPSTREAM=f"http://127.0.0.1:{free_port()}/v1")).state is State.FAILED


def test_a_server_that_speaks_no_http_is_named() -> None:
    """As each other that has failed; the collector, too."""

    class Shell(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1024)
            self.request.sendall(b"SSH-2.0-OpenSSH_9\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shell) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        found = check_upstreams(settings(VIBE_UPSTREAM=f"http://{address}/v1"))
        collector = check_collector(settings(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{address}"))
        server.shutdown()
    assert (found.state, found.detail) == (State.FAILED, f"avibe at {address}: BadStatusLine.")
    assert (collector.state, address in collector.detail) == (State.FAILED, True)


def test_keys_go_to_the_servers_of_the_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to where they redirect, nor to a proxy of the environment; a redirect has failed."""
    asked: list[tuple[str, str | None]] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(302 if self.path == "/v1/models" else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        address = f"http://127.0.0.1:{server.server_port}"
        found = check_upstreams(settings(VIBE_UPSTREAM=f"{address}/v1", VIBE_UPSTREAM_KEY="a-key"))
        server.shutdown()
    assert (found.state, asked) == (State.FAILED, [("/v1/models", "Bearer a-key")])


@pytest.mark.needs("redis-server")
def test_a_redis_takes_a_write(tmp_path: Path) -> None:
    """One that works is ok; one that takes no writes has failed."""
    with Redis(tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url) as client:
            assert check_redis(settings(RATE_LIMIT_STORAGE=server.url)).state is State.OK
            client.replicaof("127.0.0.1", "1")
        assert check_redis(settings(RATE_LIMIT_STORAGE=server.url)).state is State.FAILED


def test_a_database_is_read_and_never_made(tmp_path: Path) -> None:
    """A file that is not there stays so; one that is no database has failed."""
    file = tmp_path / "avito-ai.db"
    assert check_database(settings(STATE_DIR=str(tmp_path))).state is State.OK
    assert not file.exists()
    sqlite3.connect(file).execute("CREATE TABLE one (value TEXT)").connection.close()
    assert check_database(settings(STATE_DIR=str(tmp_path))).state is State.OK
    file.write_text("no database " * 1000)
    assert check_database(settings(STATE_DIR=str(tmp_path))).state is State.FAILED


def test_a_database_server_that_is_away_has_failed() -> None:
    """Its address is told, its password is not."""
    port = free_port()
    found = check_database(settings(DATABASE_URL=f"postgresql://me:secret@127.0.0.1:{port}/name"))
    assert (found.state, str(port) in found.detail, "secret" in found.detail) == (State.FAILED, True, False)
