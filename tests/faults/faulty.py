"""Injects faults into a running service, and asks it."""

from __future__ import annotations

import http.client
import json
from itertools import count
from typing import Any

from benchmarks.proof.bodies import MULTIPART, upload
from tests.e2e.gunicorn_process import PATIENCE, GunicornProcess, until
from tests.fakes import image_bytes

TEXT, CHAT, IMAGE = "/api/v1/text/generate", "/v1/chat/completions", "/api/v1/image/analyze"
BATCH = "/api/v1/text/batch"
LARGE = 3_000_000  # bytes
JSON = {"Content-Type": "application/json"}
Answer = tuple[int, dict[str, Any]]


class Faulty:
    """A service whose application is tests.faults.faulty_app."""

    def __init__(self, server: GunicornProcess) -> None:
        self.server = server
        self._prompts = count()

    # --- faults ---

    def inject(self, point: str, kind: str, times: int = 1) -> None:
        """Let the next calls of a point fail."""
        (self.server.folder / "fault.new").write_text("\n".join([f"{point} {kind}"] * times))
        (self.server.folder / "fault.new").rename(self.server.folder / "fault")

    def heal(self) -> None:
        """Inject no fault any more; what stalls goes on."""
        (self.server.folder / "fault").unlink(missing_ok=True)
        self.server.say("go")
        (self.server.folder / "clock").unlink(missing_ok=True)

    def hold(self) -> None:
        """Let what stalls from now on wait for `go`."""
        (self.server.folder / "go").unlink(missing_ok=True)
        (self.server.folder / "hit").unlink(missing_ok=True)

    def go(self) -> None:
        """Let what stalls go on."""
        self.server.say("go")

    def was_hit(self, point: str) -> bool:
        """Return whether a fault was met at a point since `hold`."""
        hit = self.server.folder / "hit"
        return hit.exists() and f"{point} " in hit.read_text()

    def garbage(self, keep: bool = False) -> list[str]:
        """Return what of ours only a collection could free; after that, all is kept until the next time if `keep`."""
        found = self.server.folder / "garbage"
        found.unlink(missing_ok=True)
        self.server.say("collect.new", "keep" if keep else "")
        (self.server.folder / "collect.new").rename(self.server.folder / "collect")
        until(found.exists)
        return list(json.loads(found.read_text(encoding="utf-8")))

    # --- requests ---

    def text(self, **fields: object) -> Answer:
        """Ask for a text; the prompt is a new one each time, which no prefix cache knows."""
        prompt = f"{next(self._prompts)} is a number."
        return self.ask(TEXT, json.dumps({"prompt": prompt, "max_tokens": 4, **fields}).encode())

    def large(self) -> Answer:
        """Send a body that is kept in a file while it arrives, and is refused once it is read."""
        return self.ask(CHAT, b'{"model":"' + b"x" * LARGE + b'"}')

    def image(self) -> Answer:
        """Ask about an image."""
        return self.ask(IMAGE, upload(image_bytes()), {"Content-Type": MULTIPART})

    def stream(self) -> tuple[int, bytes]:
        """Stream an answer; return the status and everything that was sent of the body."""
        messages = [{"role": "user", "content": "hello"}]
        body = {"model": "avibe", "stream": True, "max_tokens": 30, "ignore_eos": True, "messages": messages}
        connection = self.connection()
        try:
            connection.request("POST", CHAT, json.dumps(body), JSON)
            response = connection.getresponse()
            try:
                return response.status, response.read()
            except http.client.IncompleteRead as error:
                return response.status, error.partial
        finally:
            connection.close()

    def ask(self, path: str, body: bytes, headers: dict[str, str] = JSON) -> Answer:
        """Send a request; return status and JSON of its answer."""
        connection = self.connection()
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection of its own for each request."""
        return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)

    def works(self) -> bool:
        """Return whether a text, a stream and an image are answered."""
        status, streamed = self.stream()
        return self.text()[0] == self.image()[0] == status == 200 and b"[DONE]" in streamed

    def warm_up(self) -> None:
        """Have every part at work once, so that what starts with the first request has started."""
        assert self.works()
        until(lambda: self.ask(BATCH, json.dumps({"prompts": ["a"], "max_tokens": 2}).encode())[0] < 500)
