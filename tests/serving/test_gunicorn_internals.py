"""The parts of Gunicorn that serving/ and gunicorn_config.py use and that Gunicorn does not document as stable.

An upgrade that removes or changes one fails here, with its name. Why they are used is in
docs/decisions/gunicorn-hand-over.md.
"""

from __future__ import annotations

import ast
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import gunicorn
import pytest
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import PollableMethodQueue, TConn, ThreadWorker

from serving.worker import ServiceWorker

# Called or overridden, with the parameters that are passed.
CALLABLES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "ThreadWorker.accept": (ThreadWorker.accept, ["self", "listener"]),
    "ThreadWorker.handle": (ThreadWorker.handle, ["self", "conn"]),
    "ThreadWorker.handle_exit": (ThreadWorker.handle_exit, ["self", "sig", "frame"]),
    "ThreadWorker.handle_quit": (ThreadWorker.handle_quit, ["self", "sig", "frame"]),
    "ThreadWorker.load_wsgi": (ThreadWorker.load_wsgi, ["self"]),
    "ThreadWorker.notify": (ThreadWorker.notify, ["self"]),
    "ThreadWorker.enqueue_req": (ThreadWorker.enqueue_req, ["self", "conn"]),
    "ThreadWorker.finish_request": (ThreadWorker.finish_request, ["self", "conn", "fs"]),
    "ThreadWorker.get_thread_pool": (ThreadWorker.get_thread_pool, ["self"]),
    "ThreadWorker.handle_error": (ThreadWorker.handle_error, ["self", "req", "client", "addr", "exc"]),
    "ThreadWorker.murder_keepalived": (ThreadWorker.murder_keepalived, ["self", "force"]),
    "ThreadWorker.run": (ThreadWorker.run, ["self"]),
    "ThreadWorker.set_accept_enabled": (ThreadWorker.set_accept_enabled, ["self", "enabled"]),
    "ThreadWorker.wait_for_and_dispatch_events": (
        ThreadWorker.wait_for_and_dispatch_events,
        ["self", "timeout"],
    ),
    "ThreadWorker._cap_keepalive": (ThreadWorker._cap_keepalive, ["self", "deadline"]),
    "PollableMethodQueue.defer": (PollableMethodQueue.defer, ["self", "callback", "args"]),
    "ThreadWorker.handle_request": (ThreadWorker.handle_request, ["self", "req", "conn"]),
    "TConn.init": (TConn.init, ["self"]),
    "TConn.__init__": (TConn.__init__, ["self", "cfg", "sock", "client", "server"]),
    "TConn.close": (TConn.close, ["self", "graceful"]),
    "RequestParser.finish_body": (RequestParser.finish_body, ["self", "deadline", "max_bytes"]),
    "wsgi.create": (wsgi.create, ["req", "sock", "client", "server", "cfg", "response_class", "response_args"]),
    "wsgi.Response": (wsgi.Response, ["req", "sock", "cfg"]),
    "wsgi.Response.write": (wsgi.Response.write, ["self", "arg"]),
    "wsgi.Response.start_response": (wsgi.Response.start_response, ["self", "status", "headers", "exc_info"]),
    "Request.should_close": (Request.should_close, ["self"]),
    "util.close_graceful": (util.close_graceful, ["sock", "timeout", "max_drain"]),
    "Logger.setup": (Logger.setup, ["self", "cfg"]),
}
# Read or written on a worker.
WORKER_ATTRIBUTES = {
    "alive",
    "booted",
    "cfg",
    "log",
    "method_queue",
    "nr_conns",
    "pid",
    "poller",
    "ppid",
    "sockets",
    "worker_connections",
    "wsgi",
}


class Application:
    """The application object from which a worker gets its WSGI callable."""

    def wsgi(self) -> str:
        return "the application"


@pytest.fixture
def worker() -> Iterator[ThreadWorker]:
    """A worker of Gunicorn's own class that has loaded its application and serves nothing."""
    worker = ThreadWorker(1, os.getpid(), [], Application(), 30, Config(), logging.getLogger("gunicorn.error"))
    worker.load_wsgi()
    yield worker
    worker.tmp.close()


def lost(name: str) -> str:
    return f"Gunicorn {gunicorn.__version__} has changed {name}, on which this service builds"


@pytest.mark.parametrize("name", CALLABLES)
def test_what_is_called_or_overridden_takes_what_it_took(name: str) -> None:
    """A method that is renamed would no longer be overridden, without any error at run time."""
    function, parameters = CALLABLES[name]
    assert list(inspect.signature(function).parameters) == parameters, lost(name)


@pytest.mark.parametrize("name", sorted(WORKER_ATTRIBUTES))
def test_a_worker_has_what_is_read_of_it(worker: ThreadWorker, name: str) -> None:
    """Its state, its queue of calls into the main loop, its connections that wait for a first byte."""
    assert hasattr(worker, name), lost(f"ThreadWorker.{name}")


def test_a_thread_takes_a_connection_whose_request_has_arrived() -> None:
    """It neither waits for a first byte nor reads what has not arrived; the parser reads through `recv` alone."""
    assert "if not conn.initialized and not conn.data_ready:" in inspect.getsource(ThreadWorker.handle), lost(
        "ThreadWorker.handle: data_ready"
    )
    assert "if self.parser is None:" in inspect.getsource(TConn.init), lost("TConn.init: parser")
    assert "next(conn.parser)" in inspect.getsource(ThreadWorker.handle), lost("ThreadWorker.handle: parser")
    assert "self.sock = sock" in inspect.getsource(TConn), lost("TConn.sock")
    assert "self.sock.recv(size)" in inspect.getsource(SocketUnreader.chunk), lost("SocketUnreader.chunk")


def test_what_a_request_says_of_its_connection_is_asked_of_it() -> None:
    """By the response and by the parser, which makes requests of its `mesg_class`."""
    assert "self.req.should_close()" in inspect.getsource(wsgi.Response.should_close), lost("Response.should_close")
    source = inspect.getsource(RequestParser.__next__)
    assert "self.mesg_class(self.cfg, " in source, lost("RequestParser.mesg_class")


def test_a_request_that_was_served_comes_back_to_the_main_loop() -> None:
    """`finish_request` is called there, with the connection and the future of the thread that served it."""
    source = inspect.getsource(ThreadWorker.enqueue_req)
    assert "self.method_queue.defer(self.finish_request, conn, fut)" in source, lost("ThreadWorker.enqueue_req")


def test_a_stopping_worker_closes_what_waits() -> None:
    """At the end it gives up every connection that no thread serves."""
    assert "self.murder_keepalived(force=True)" in inspect.getsource(ThreadWorker.run), lost("ThreadWorker.run")


def test_the_masters_marks_are_what_they_were() -> None:
    """The exit statuses at which it stops, its workers, and how SIGUSR2 starts a new master and passes its own pid."""
    assert (Arbiter.WORKER_BOOT_ERROR, Arbiter.APP_LOAD_ERROR) == (3, 4), lost("Arbiter.WORKER_BOOT_ERROR")
    assert Arbiter.WORKERS == {}, lost("Arbiter.WORKERS")
    assert isinstance(Arbiter.num_workers, property), lost("Arbiter.num_workers")
    source = inspect.getsource(Arbiter.reexec)
    for part in ("environ['GUNICORN_PID'] = str(master_pid)", "self.START_CTX['cwd']", "self.START_CTX['args']"):
        assert part in source, lost(f"Arbiter.reexec: {part}")


def test_the_access_log_can_be_switched_off() -> None:
    """Ours has the request id; Gunicorn's would be a second line."""
    assert "self._access_log_enabled" in inspect.getsource(Logger), lost("Logger._access_log_enabled")
    assert "self.error_log" in inspect.getsource(Logger.__init__), lost("Logger.error_log")


def test_no_other_part_of_the_worker_is_used() -> None:
    """The lists above name everything that our worker takes from Gunicorn's."""
    listed = {name.partition(".")[2] for name in CALLABLES if name.startswith("ThreadWorker.")} | WORKER_ATTRIBUTES
    assert taken() <= listed


def taken() -> set[str]:
    """Return what our classes override, and what they use of themselves without defining it."""
    ours = ServiceWorker.__mro__[: ServiceWorker.__mro__.index(ThreadWorker)]
    defined = {name for one in ours for name in vars(one)}
    nodes = [node for one in ours for node in ast.walk(ast.parse(inspect.getsource(one)))]
    used = [
        node for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "super()")
    ]
    set_here = {node.attr for node in used if isinstance(node.ctx, ast.Store)} - WORKER_ATTRIBUTES
    overridden = {name for name in defined if name in dir(ThreadWorker) and not name.startswith("__")}
    return ({node.attr for node in used} - defined - set_here - {"__init__"}) | overridden
