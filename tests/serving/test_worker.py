"""Parts of the worker that no client can trigger on a real Gunicorn."""

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from serving.worker import ServiceWorker, has_sibling

NO_PROCESS = 2**22 + 1


class FailingListener:
    """A listening socket whose accept fails."""

    def __init__(self, number):
        self.number = number

    def accept(self):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ECONNABORTED])
def test_client_that_left_before_accept_is_ignored(number):
    """If another worker was faster or the client disconnected, nothing happens."""
    worker = object.__new__(ServiceWorker)
    assert worker.accept(FailingListener(number)) is None


class MainLoop:
    """A method queue that keeps the calls deferred to it."""

    def __init__(self):
        self.calls = []

    def defer(self, callback):
        self.calls.append(callback)


class Pool:
    """A thread pool that records its shutdown."""

    is_shut_down = False

    def shutdown(self, wait):
        self.is_shut_down = True


def test_interrupt_is_handled_in_the_main_loop():
    """The signal may arrive while the main thread holds the pool's lock to hand over a request."""
    worker = object.__new__(ServiceWorker)
    worker.booted, worker.method_queue, worker.tpool = True, MainLoop(), Pool()
    worker.cfg = SimpleNamespace(worker_int=lambda worker: None)
    worker.handle_quit(signal.SIGINT, None)
    assert not worker.tpool.is_shut_down
    (stop,) = worker.method_queue.calls
    with pytest.raises(SystemExit):
        stop()
    assert worker.tpool.is_shut_down


def test_broken_listening_socket_raises():
    """Any other error of accept is raised."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        object.__new__(ServiceWorker).accept(FailingListener(errno.EBADF))


def test_sibling_is_another_living_child_of_the_parent():
    """A process has a sibling while its parent has another running child."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert has_sibling(os.getpid())
        child.stdin.close()
        child.wait()
    assert not has_sibling(os.getpid())
    assert not has_sibling(NO_PROCESS)
