"""A server that answers what the test scripted, over real sockets, one thread for each connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = ("one", " two", " three")


def stream(pieces: tuple[str, ...] = PIECES, complete: bool = True) -> bytes:
    """Return the events of one chat answer."""
    events = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
    events += [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    events.append({"choices": [], "usage": {"completion_tokens": len(pieces)}})
    lines = [json.dumps(event) for event in events] + (["[DONE]"] if complete else [])
    return b"".join(b"data: %s\n\n" % line.encode() for line in lines)


class ScriptedServer(ThreadingHTTPServer):
    """answer: status and body of every answer; asked: the paths, headers and bodies of the requests so far."""

    daemon_threads = True

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = (status, body)
        self.asked: list[tuple[str, dict[str, str], dict]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        status, answer = self.server.answer
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (answer[:10], answer[10:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def scripted(status: int, body: bytes) -> Iterator[ScriptedServer]:
    """Serve until the block ends."""
    with ScriptedServer(status, body) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(60)
