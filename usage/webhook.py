"""Posts events as JSON to the operator's address, from a thread of its own: nothing waits for it.

The address comes from the settings alone. Redirects are not followed, so that nothing else is ever asked.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import unquote, urlsplit

log = logging.getLogger("avito_ai.budgets")

TIMEOUT = 5.0  # seconds for each step of a try: to connect, to send, to answer
PAUSES = (1.0, 10.0, 60.0)  # seconds between the tries
WAITING = 100  # events at most; later ones are dropped

Event = Mapping[str, object]


class Webhook:
    """One address. pause: waits between two tries, given seconds. failures: how many events did not arrive."""

    def __init__(self, url: str, pause: Callable[[float], object] = time.sleep, timeout: float = TIMEOUT) -> None:
        self._url, self._pause, self._timeout = urlsplit(url), pause, timeout
        self._events: queue.Queue[Event] = queue.Queue(WAITING)
        self.failures = 0

    def use_url(self, url: str) -> None:
        """Post to another address from now on."""
        self._url = urlsplit(url)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="webhook", daemon=True).start()

    def send(self, event: Event) -> None:
        """Post an event soon; never blocks."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._failed("too many events wait")

    def deliver(self, event: Event) -> None:
        """Post an event, and again after each pause until it has arrived."""
        reason = self._post(event)
        for seconds in PAUSES:
            if reason is None:
                return
            self._pause(seconds)
            reason = self._post(event)
        if reason is not None:
            self._failed(reason)

    def _run(self) -> None:
        while True:
            event = self._events.get()
            try:
                self.deliver(event)
            except Exception as error:  # the thread must go on: without it no event would be posted any more
                self._failed(type(error).__name__)

    def _post(self, event: Event) -> str | None:
        """Return why the event has not arrived, None if it has."""
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=self._timeout)
        try:
            connection.request("POST", self._target(), json.dumps(event, ensure_ascii=False).encode(), self._headers())
            status = connection.getresponse().status
        except (OSError, HTTPException, ValueError) as error:
            return type(error).__name__
        finally:
            connection.close()
        return None if 200 <= status < 300 else f"status {status}"

    def _target(self) -> str:
        return (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "avito-ai"}
        if self._url.username is not None:
            pair = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
        return headers

    def _failed(self, reason: str) -> None:
        self.failures += 1
        log.error("An event could not be posted to BUDGET_WEBHOOK_URL (%s).", reason)
