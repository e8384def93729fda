"""Parts of the worker that no client can trigger on a real Gunicorn."""

import errno
import os
import subprocess
import sys

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
