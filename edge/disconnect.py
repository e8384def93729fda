"""Detects clients that disconnect during a generation, and aborts it.

WSGI does not report a disconnect to the view, so one thread watches the sockets of all generations in flight. On Linux
the kernel reports a peer that closed (EPOLLRDHUP, even before unread bytes) or reset (EPOLLHUP); elsewhere the sockets
are polled every 50 ms, and only while there are any.
"""

from __future__ import annotations

import contextlib
import logging
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

log = logging.getLogger("avito_ai.disconnect")

POLL_SECONDS = 0.05

Callback = Callable[[], None]


class Watcher(Protocol):
    """Detects closed peers of sockets, in a thread of its own."""

    def add(self, sock: socket.socket, on_disconnect: Callback) -> Callback:
        """Call `on_disconnect` once, soon after the peer disconnects; return what ends the watch, safe at any time."""


class ClientWatch:
    """Watches the clients of all generations in flight. The thread starts with the first one, so after the fork."""

    def __init__(self, new_watcher: Callable[[], Watcher] | None = None) -> None:
        self._new_watcher = new_watcher or (EpollWatcher if hasattr(select, "EPOLLRDHUP") else PollingWatcher)
        self._lock = threading.Lock()  # guards the field below
        self._watcher: Watcher | None = None

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


class EpollWatcher:
    """Waits in epoll, so the call follows the packet immediately."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()  # guards the field below, and the set in the kernel that follows it
        self._watched: dict[int, list[_Watch]] = {}
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
            for descriptor, _ in self._epoll.poll():
                for watch in self._take(descriptor):
                    _call(watch.on_disconnect)

    def _take(self, descriptor: int) -> list[_Watch]:
        """Return the watches of this descriptor, unless it was reused after the kernel reported it."""
        with self._lock:
            if descriptor not in self._watched or not _has_hung_up(descriptor):
                return []
            watches = self._watched[descriptor]
            self._forget(descriptor)
            return watches

    def _forget(self, descriptor: int) -> None:
        del self._watched[descriptor]
        with contextlib.suppress(OSError):  # the kernel has removed a closed socket already
            self._epoll.unregister(descriptor)


class PollingWatcher:
    """Polls the sockets every `every` seconds while there are any; works on every system.

    Unread bytes that the client sent ahead hide a disconnect: there is no portable way to detect it behind them.
    """

    def __init__(self, every: float = POLL_SECONDS) -> None:
        self._every = every
        self._changed = threading.Condition()  # guards the field below
        self._watched: list[_Watch] = []
        threading.Thread(target=self._run, name="client-watch", daemon=True).start()

    def add(self, sock: socket.socket, on_disconnect: Callback) -> Callback:
        watch = _Watch(sock, on_disconnect)
        with self._changed:
            self._watched.append(watch)
            self._changed.notify()
        return lambda: self._remove(watch)

    def _remove(self, watch: _Watch) -> None:
        with self._changed, contextlib.suppress(ValueError):
            self._watched.remove(watch)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched)
                left = [watch for watch in self._watched if _peer_closed(watch.sock)]
                self._watched = [watch for watch in self._watched if watch not in left]
            for watch in left:
                _call(watch.on_disconnect)
            time.sleep(self._every)


def _has_hung_up(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLRDHUP)
    return bool(poller.poll(0))


def _peer_closed(sock: socket.socket) -> bool:
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0)) and sock.recv(1, socket.MSG_PEEK) == b""
    except ValueError:  # closed on our side, or a TLS socket, which cannot be peeked
        return sock.fileno() < 0
    except OSError:  # reset
        return True


def _call(on_disconnect: Callback) -> None:
    """Call it, and survive any error: without the watcher's thread, later disconnects would go unnoticed."""
    try:
        on_disconnect()
    except Exception:
        log.exception("A client disconnected, and its generation could not be stopped.")
