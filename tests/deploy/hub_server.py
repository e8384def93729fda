"""A small Hugging Face: it lists repositories and serves their files as huggingface_hub 2.4 asks for them.

Large files are behind a redirect to another host, as there, and can be continued from any byte.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class SmallHub:
    """Repositories by name, each with its files; the other fields are faults and what was asked.

    cut: how many bytes of a file are sent before the connection breaks, once. swapped: what is sent in place of a file.
    refused: status and error code of a repository, of its files alone if `files_only`. refused_ranges: whether no file
    is continued. token: the only one accepted.
    ranges: the files and Range headers that came; elsewhere: the Authorization headers that reached the other host.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    swapped: dict[str, bytes] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    files_only: bool = False
    refused_ranges: bool = False
    token: str | None = None
    ranges: list[tuple[str, str | None]] = field(default_factory=list)
    elsewhere: list[str | None] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        """Return the value for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, folder: Path, *others: str) -> None:
        """Offer the files of a folder, and others that hold a word."""
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.repositories[name] = files | dict.fromkeys(others, b"something")


def large(name: str) -> bool:
    """Return whether a file is stored by its SHA-256."""
    return name.endswith((".safetensors", ".bin"))


def _entry(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
    if large(name):
        entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 1}
    return entry


@contextmanager
def serving(hub: SmallHub) -> Iterator[SmallHub]:
    """Serve the hub on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                self._list(match[1])
            elif match := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path):
                self._resolve(match[1], match[2])
            elif match := re.fullmatch(r"/stored/([^/]+/[^/]+)/(.+)", path):
                hub.elsewhere.append(self.headers["Authorization"])
                self._content(match[1], match[2])
            else:
                self._answer(404)

        def _list(self, name: str) -> None:
            if name in hub.refused and not hub.files_only and not self._known():
                return self._answer(hub.refused[name][0], {"X-Error-Code": hub.refused[name][1]})
            if name not in hub.repositories:
                return self._answer(404, {"X-Error-Code": "RepoNotFound"})
            siblings = [_entry(*file) for file in hub.repositories[name].items()]
            card = {"license": "apache-2.0"}
            body = {"id": name, "sha": COMMIT, "cardData": card, "siblings": siblings}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

        def _resolve(self, name: str, file: str) -> None:
            if name in hub.refused and not self._known():
                return self._answer(hub.refused[name][0], {"X-Error-Code": hub.refused[name][1]})
            if file not in hub.repositories[name]:
                return self._answer(404, {"X-Error-Code": "EntryNotFound"})
            if large(file):
                return self._answer(302, {"Location": f"http://localhost:{hub.port}/stored/{name}/{file}"})
            self._content(name, file)

        def _content(self, name: str, file: str) -> None:
            hub.ranges.append((file, self.headers["Range"]))
            content = hub.swapped.get(file, hub.repositories[name][file])
            if hub.refused_ranges and self.headers["Range"]:
                return self._answer(416)
            start = int(re.findall(r"\d+", self.headers["Range"] or "0")[0])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            cut = hub.cut.pop(file, None)
            self.wfile.write(content[start:cut])
            self.close_connection = cut is not None

        def _known(self) -> bool:
            return hub.token is not None and self.headers["Authorization"] == f"Bearer {hub.token}"

        def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
