"""One HTTP/1.1 request and its answer on a connection of its own, framed by h11."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import h11

from benchmarks.harness.http_answer import Answer, BadAnswer

# What a body that is not the JSON it should be raises in its reader.
UNREADABLE = (ValueError, KeyError, TypeError)
CLOSED_EARLY = "the connection closed in the middle of the answer"


class Exchange(asyncio.Protocol):
    """Sends one request once connected and feeds the answer's body to `answer` with its times of arrival.

    `over` resolves to None after a complete answer with status 200, and raises otherwise: BadAnswer, OSError, or one
    of UNREADABLE.
    """

    def __init__(
        self, request: h11.Request, body: bytes, answer: Answer, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._body, self._answer, self._clock = request, body, answer, clock
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        for event in (self._request, h11.Data(data=self._body), h11.EndOfMessage()):
            transport.write(self._http.send(event) or b"")

    def data_received(self, data: bytes) -> None:
        """Read a part of the answer."""
        self._receive(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Read the end of the answer, which completes a body without a length; fail with the error if there is one."""
        if error is not None:
            self._settle(error)
        self._receive(b"")

    def _receive(self, data: bytes) -> None:
        now = self._clock()
        if self.over.done():
            return
        try:
            self._http.receive_data(data)
            while not self.over.done() and self._take(self._http.next_event(), now):
                pass
        except h11.RemoteProtocolError as error:
            self._settle(BadAnswer(f"the answer is not HTTP ({error})" if data else CLOSED_EARLY))
        except (BadAnswer, *UNREADABLE) as error:
            self._settle(error)

    def _take(self, event: h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED], now: float) -> bool:
        """Handle one event; return whether another may be ready."""
        if isinstance(event, h11.Data):
            self._answer.feed(bytes(event.data), now)
        elif isinstance(event, h11.EndOfMessage):
            self._answer.end()
            self._settle(None)
        elif isinstance(event, h11.Response) and event.status_code != 200:
            raise BadAnswer(f"status {event.status_code}")
        return isinstance(event, h11.Data | h11.Response | h11.InformationalResponse)

    def _settle(self, error: Exception | None) -> None:
        """Resolve `over` unless that has happened, and close the connection."""
        if not self.over.done():
            if error is None:
                self.over.set_result(None)
            else:
                self.over.set_exception(error)
        if self._transport is not None:
            self._transport.close()
