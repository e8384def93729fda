"""Keeps a service under load and writes down what each client saw; with the standard library alone.

`python3 load.py PORT FOLDER RATE` sends RATE requests a second, whatever happens to them: streams, answers of the API
and forms of the page in turn, each on a connection of its own. Beside them it asks every PROBE_SECONDS whether the
service lives, and keeps a long stream open: half-way through one it begins the next, so that on a machine of any speed
one is under way at every moment in which the service takes requests. It ends when the file `enough` stands in FOLDER
and every request has ended, and leaves `seen.json` there: one object a request, times in seconds of the monotonic
clock.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

PROBE_SECONDS = 0.1
PATIENCE = 120.0
SHORT, LONG = 8, 1000  # tokens
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ASK = "Write a listing for: used bicycle"


def stream(tokens: int) -> tuple[str, str, dict[str, str], bytes]:
    body = {"model": "avibe", "max_tokens": tokens, "stream": True, "messages": [{"role": "user", "content": ASK}]}
    # An event may hold several tokens; each has its own log probability, by which they can be counted.
    return "POST", "/v1/chat/completions", JSON, json.dumps(body | {"ignore_eos": True, "logprobs": True}).encode()


REQUESTS = {
    "stream": stream(SHORT),
    "answer": ("POST", "/api/v1/text/generate", JSON, json.dumps({"prompt": ASK, "max_tokens": SHORT}).encode()),
    "form": ("POST", "/avibe", FORM, urlencode({"prompt": ASK}).encode()),
    "long stream": stream(LONG),
    "probe": ("GET", "/api/health/live", {}, b""),
}
MIX = ("stream", "answer", "form", "answer")


class Client:
    """Sends one request of a kind and records its observations in `seen`.

    half_way: set once half of a long stream has arrived, or all there is of an answer. In `seen`, `refused` says that
    the client was told to come again, or could not connect: all other trouble is an answer that was lost.
    """

    def __init__(self, port: int, kind: str) -> None:
        self._port, self._kind = port, kind
        self.half_way = threading.Event()
        self.seen: dict[str, Any] = {"kind": kind, "status": 0, "trouble": "", "refused": False}
        self.seen["began"] = time.monotonic()

    def run(self) -> None:
        """Send it and read the whole response; `longest_wait` is the longest silence in between."""
        self._last, self._longest = self.seen["began"], 0.0
        try:
            self._ask()
        except (OSError, http.client.HTTPException) as error:
            self.seen |= {"trouble": repr(error), "refused": isinstance(error, ConnectionRefusedError)}
        self.seen |= {"ended": time.monotonic(), "longest_wait": self._longest}
        self.half_way.set()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(*_arguments(REQUESTS[self._kind]))
            response = connection.getresponse()
            self._heard()
            self.seen["status"] = response.status  # at once: the rest may never come
            body, tokens = b"", 0
            while part := response.read1(65536):
                self._heard()
                body += part
                tokens += part.count(b'"logprob":')
                if tokens > LONG // 2:
                    self.half_way.set()
        finally:
            connection.close()
        self.seen["trouble"] = self._trouble(response, body)
        self.seen["refused"] = response.status == 503 and response.getheader("Retry-After") is not None

    def _heard(self) -> None:
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now

    def _trouble(self, response: http.client.HTTPResponse, body: bytes) -> str:
        """Return what is wrong with the response, "" if nothing is."""
        if response.status != 200:
            return f"{response.status}: {body[:200]!r}"
        if response.length:
            return f"the answer was cut: {body[-200:]!r}"
        if "stream" in self._kind and not (body.endswith(b"data: [DONE]\n\n") and b'"error"' not in body):
            return f"the stream was cut: {body[-200:]!r}"
        return ""


def _arguments(request: tuple[str, str, dict[str, str], bytes]) -> tuple[str, str, bytes, dict[str, str]]:
    method, path, headers, body = request
    return method, path, body, headers


class Load:
    """Starts clients until there is enough, and waits for all of them."""

    def __init__(self, port: int, folder: Path, rate: float) -> None:
        self._port, self._enough, self._rate = port, folder / "enough", rate
        self._clients: list[Client] = []
        self._threads: list[threading.Thread] = []

    def run(self) -> list[dict[str, Any]]:
        """Return the observations of all clients."""
        beats = [(1 / self._rate, MIX), (PROBE_SECONDS, ("probe",))]
        drums = [threading.Thread(target=self._beat, args=beat) for beat in beats]
        drums.append(threading.Thread(target=self._relay))
        for drum in drums:
            drum.start()
        for threads in (drums, self._threads):
            for thread in threads:
                thread.join()
        return [client.seen for client in self._clients]

    def _beat(self, every: float, kinds: tuple[str, ...]) -> None:
        """Start a client a beat."""
        pause, due, number = threading.Event(), time.monotonic(), 0
        while not self._enough.exists():
            self._start(kinds[number % len(kinds)])
            number += 1
            due += every
            pause.wait(max(0.0, due - time.monotonic()))

    def _relay(self) -> None:
        """Start a long stream half-way through the one before; after one that was refused, with a pause."""
        pause = threading.Event()
        while not self._enough.exists():
            client = self._start("long stream")
            client.half_way.wait()
            if client.seen["trouble"]:
                pause.wait(1 / self._rate)

    def _start(self, kind: str) -> Client:
        client = Client(self._port, kind)
        thread = threading.Thread(target=client.run)
        self._clients.append(client)
        self._threads.append(thread)
        thread.start()
        return client


if __name__ == "__main__":
    place = Path(sys.argv[2])
    seen = Load(int(sys.argv[1]), place, float(sys.argv[3])).run()
    (place / "seen.new").write_text(json.dumps(seen))
    (place / "seen.new").rename(place / "seen.json")
