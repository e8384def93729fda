"""The event loop of all upstreams: one thread, and one pool of connections.

A request to a server is a task here, and its client's thread waits for the answer as it waits for an engine's: so a
request costs no thread of its own, and what any thread cancels closes its connection. A thread that hands something to
the loop keeps the interpreter lock meanwhile: asyncio's own way gives it up, and a thread that serves a request would
wait its turn among all others before it gets on.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp

from engine.quick_calls import send_now

log = logging.getLogger("avito_ai.upstream")

KEEP_ALIVE = 4.0  # seconds for which an idle connection is kept; uvicorn, and so vLLM, closes it after 5
READ_BYTES = 256 * 1024
STOP_PATIENCE = 5.0  # seconds
LEAD = 0.001  # seconds at most in which the loop gets on before the thread that has handed it something
THREADS = 16  # for calls that wait; asyncio's own are left to it, which looks host names up in them

T = TypeVar("T")


class UpstreamLoop:
    """Started by the first of its users and stopped by the last. user_agent: what servers are told."""

    def __init__(self, user_agent: str = "avito-ai") -> None:
        self._user_agent = user_agent
        self._lock = threading.Lock()  # guards the fields below
        self._users = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # of the loop's thread alone
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = True  # the loop is about to look at the calls; nothing wakes it while it does not run
        self._bell: tuple[socket.socket, socket.socket] | None = None  # what the loop hears, and what rings it

    @property
    def session(self) -> aiohttp.ClientSession:
        """The pool of connections; without cookies, proxies of the environment, and compression."""
        assert self._session is not None
        return self._session

    def enter(self) -> None:
        """Count a user, and start the thread for the first."""
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            begun = threading.Event()
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upstreams")
            self._thread = threading.Thread(target=self._run, args=(begun,), name="upstreams", daemon=True)
            self._thread.start()
            begun.wait()

    def leave(self) -> None:
        """Count a user no longer; with the last, cancel what is left and end the thread."""
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None or self._thread is None or self._threads is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_PATIENCE)
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._thread = self._loop = None
            self._calls.clear()

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Have `call` called by the loop's thread; from any thread, with any lock held. Nothing once it has ended."""
        self._calls.append((call, args))
        bell = self._bell
        if not self._woken and bell is not None:
            self._woken = True
            try:
                send_now(bell[1].fileno(), b"\0")
            except OSError:  # full of rings, or closed meanwhile
                pass

    def soon_first(self, call: Callable[..., object], *args: Any) -> None:
        """Have `call` called as `soon` does, and wait, at most LEAD seconds, for the first step of a task it starts.

        A request is on its way to a server then, and the calling thread goes on while that works.
        """
        begun = threading.Lock()
        begun.acquire()
        self.soon(self._lead, call, args, begun.release)
        begun.acquire(timeout=LEAD)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task, in the loop's thread."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def in_thread(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Have `call` called by a thread that may wait, while the loop goes on."""
        assert self._threads is not None
        return self._threads.submit(call, *args)

    def _run(self, begun: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self._session = loop.run_until_complete(self._open())
        self._loop = loop
        heard, ring = self._bell = socket.socketpair()
        heard.setblocking(False)
        loop.add_reader(heard, self._work_off, heard)
        self._woken = False
        loop.call_soon(begun.set)
        loop.run_forever()
        self._woken, self._bell = True, None
        loop.remove_reader(heard)
        loop.run_until_complete(self._close())
        loop.close()
        heard.close()
        ring.close()

    def _work_off(self, heard: socket.socket) -> None:
        """Call what other threads have asked for."""
        heard.recv(READ_BYTES)
        self._woken = False  # before the look, so that whoever comes behind it rings again
        while self._calls:
            call, args = self._calls.popleft()
            try:
                call(*args)
            except Exception:
                log.exception("A call of another thread failed.")

    def _lead(self, call: Callable[..., object], args: tuple[Any, ...], begun: Callable[[], None]) -> None:
        """Call `call`, and `begun` behind the first step of a task of its, and behind that of one which this starts."""
        call(*args)
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, begun)

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BYTES,
            headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
        )

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.session.close()
        await asyncio.sleep(0)  # transports close in the next turn of the loop
