"""Detects clients that disconnect during a generation, and aborts it.

WSGI does not report a disconnect to the view, so one thread watches the sockets of all generations in flight. On Linux
the kernel reports a peer that sent its last byte (EPOLLRDHUP, even before unread bytes) or reset (EPOLLHUP); elsewhere
the sockets are polled every 50 ms, and only while there are any.

A peer that sent its last byte has left, or waits for its answer with its own end closed (`nc -N`, shell pipes). A probe
tells them apart: one that has left resets the connection, at once or, through a relay that passes the half-close on, at
a later probe; so probes repeat, ever more rarely. What cannot be probed counts as left: tokens for nobody would cost
others. That is a client of HTTP/1.0 before the head of its answer, and any client of the development server.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger("avito_ai.disconnect")

POLL_SECONDS = 0.05  # seconds
FIRST_PROBE_GAP, LAST_PROBE_GAP = 0.05, 10.0  # seconds; each gap is twice the one before
LEFT = select.POLLHUP | select.POLLERR if hasattr(select, "poll") else 0

Callback = Callable[[], None]


class Watcher(Protocol):
    """Detects closed peers of sockets, in a thread of its own."""

    def add(self, sock: socket.socket, on_disconnect: Callback) -> Callback:
        """Call `on_disconnect` once, soon after the peer disconnects; return what ends the watch, safe at any time."""


class ClientWatch:
    """Watches the clients of all generations in flight, from `start` or else from the first one on."""

    def __init__(self, new_watcher: Callable[[], Watcher] | None = None) -> None:
        self._new_watcher = new_watcher or (EpollWatcher if hasattr(select, "EPOLLRDHUP") else PollingWatcher)
        self._lock = threading.Lock()  # guards the field below
        self._watcher: Watcher | None = None

    def start(self) -> None:
        """Start the thread, once the process is forked: later there might be no room for another."""
        self._started()

    def watch(self, environ: Mapping[str, Any], on_disconnect: Callback) -> Callback:
        """Call `on_disconnect` if the client disconnects; return what ends the watch, which must always be called."""
        sock = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
        if sock is None or sock.fileno() < 0:
            return lambda: None
        return self._started().add(sock, on_disconnect)

    def _started(self) -> Watcher:
        with self._lock:
            if self._watcher is None:
                self._watcher = self._new_watcher()
            return self._watcher


@dataclass(eq=False, slots=True)
class _Watch:
    """One generation in flight. Compared by identity, since streams can share a socket."""

    sock: socket.socket
    on_disconnect: Callback


class _Probes:
    """When to probe a client that has sent its last byte. Seconds on the monotonic clock."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._gap = FIRST_PROBE_GAP
        self.due = time.monotonic()

    def probe(self) -> bool:
        """Probe the client if it is time; False where it has left, or cannot be probed."""
        now = time.monotonic()
        if now < self.due:
            return True
        self.due, self._gap = now + self._gap, min(2 * self._gap, LAST_PROBE_GAP)
        probe: Callable[[], bool] | None = getattr(self._sock, "probe", None)
        return probe is not None and probe()


class EpollWatcher:
    """Waits in epoll, so the call follows the packet immediately."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()  # guards the fields below, and the set in the kernel that follows the first
        self._watched: dict[int, list[_Watch]] = {}
        self._half_closed: dict[int, _Probes] = {}
        threading.Thread(target=self._run, name="client-watch", daemon=True).start()

    def add(self, sock: socket.socket, on_disconnect: Callback) -> Callback:
        watch, descriptor = _Watch(sock, on_disconnect), sock.fileno()
        with self._lock:
            sharing = self._watched.setdefault(descriptor, [])
            sharing.append(watch)
            if len(sharing) == 1:
                self._epoll.register(descriptor, select.EPOLLRDHUP)
        return lambda: self._remove(descriptor, watch)

    def _remove(self, descriptor: int, watch: _Watch) -> None:
        with self._lock:
            sharing = self._watched.get(descriptor, [])
            if watch in sharing:
                sharing.remove(watch)
                if not sharing:
                    self._forget(descriptor)

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll(self._until_probe()):
                self._look(descriptor)
            for descriptor in self._to_probe():
                self._look(descriptor)

    def _until_probe(self) -> float | None:
        with self._lock:
            due = min((probes.due for probes in self._half_closed.values()), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _to_probe(self) -> list[int]:
        with self._lock:
            return list(self._half_closed)

    def _look(self, descriptor: int) -> None:
        for watch in self._take_if_left(descriptor):
            _call(watch.on_disconnect)

    def _take_if_left(self, descriptor: int) -> list[_Watch]:
        """Return the watches of this descriptor if its client has left; it may have been reused since it was reported.

        The lock is held meanwhile, so that the socket is not closed before the probe.
        """
        with self._lock:
            events = _events(descriptor) if descriptor in self._watched else 0
            if not events:
                return []
            watches = self._watched[descriptor]
            if not events & LEFT and self._probe(descriptor, watches[0].sock):
                return []
            self._forget(descriptor)
            return watches

    def _probe(self, descriptor: int, sock: socket.socket) -> bool:
        if descriptor not in self._half_closed:
            self._half_closed[descriptor] = _Probes(sock)
            self._epoll.modify(descriptor, 0)  # only what is reported in any case: a reset
        return self._half_closed[descriptor].probe()

    def _forget(self, descriptor: int) -> None:
        del self._watched[descriptor]
        self._half_closed.pop(descriptor, None)
        with contextlib.suppress(OSError):  # the kernel has removed a closed socket already
            self._epoll.unregister(descriptor)


class PollingWatcher:
    """Polls the sockets every `every` seconds while there are any; works on every system.

    Unread bytes that the client sent ahead hide a disconnect: there is no portable way to detect it behind them.
    """

    def __init__(self, every: float = POLL_SECONDS) -> None:
        self._every = every
        self._changed = threading.Condition()  # guards the fields below
        self._watched: list[_Watch] = []
        self._half_closed: dict[_Watch, _Probes] = {}
        threading.Thread(target=self._run, name="client-watch", daemon=True).start()

    def add(self, sock: socket.socket, on_disconnect: Callback) -> Callback:
        watch = _Watch(sock, on_disconnect)
        with self._changed:
            self._watched.append(watch)
            self._changed.notify()
        return lambda: self._remove(watch)

    def _remove(self, watch: _Watch) -> None:
        with self._changed:
            self._forget(watch)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched)
                left = [watch for watch in self._watched if self._has_left(watch)]
                for watch in left:
                    self._forget(watch)
            for watch in left:
                _call(watch.on_disconnect)
            time.sleep(self._every)

    def _has_left(self, watch: _Watch) -> bool:
        if watch not in self._half_closed:
            if not _peer_closed(watch.sock):
                return False
            self._half_closed[watch] = _Probes(watch.sock)
        # A reset may be there as soon as the probe is sent, on one machine at least.
        return _reset(watch.sock) or not self._half_closed[watch].probe() or _reset(watch.sock)

    def _forget(self, watch: _Watch) -> None:
        self._half_closed.pop(watch, None)
        with contextlib.suppress(ValueError):
            self._watched.remove(watch)


def _events(descriptor: int) -> int:
    """Return which of hang-up, error and the peer's last byte the kernel shows now."""
    look = select.poll()
    look.register(descriptor, select.POLLRDHUP)
    found = look.poll(0)
    return found[0][1] if found else 0


def _peer_closed(sock: socket.socket) -> bool:
    try:
        return _readable(sock) and sock.recv(1, socket.MSG_PEEK) == b""
    except ValueError:  # closed on our side, or a TLS socket, which cannot be peeked
        return sock.fileno() < 0
    except OSError:  # reset
        return True


def _readable(sock: socket.socket) -> bool:
    """Look without a descriptor for it: there may be none left."""
    if not hasattr(select, "poll"):  # pragma: no cover - Windows
        return bool(select.select([sock], [], [], 0)[0])
    look = select.poll()
    look.register(sock, select.POLLIN)
    return bool(look.poll(0))


def _reset(sock: socket.socket) -> bool:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
    except OSError:  # closed on our side
        return True


def _call(on_disconnect: Callback) -> None:
    """Call, and survive any error: without the watcher's thread, later disconnects would go unnoticed."""
    try:
        on_disconnect()
    except Exception:
        log.exception("A client disconnected, and its generation could not be stopped.")
