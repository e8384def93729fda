"""Faults that take a thread, a process or a limit away: what was asked ends typed, and the service serves again."""

from __future__ import annotations

import resource
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.e2e.demo_service import ready
from tests.e2e.gunicorn_process import PATIENCE, until
from tests.faults.faulty import Faulty
from tests.integrity import nothing_left, worker_of

pytestmark = pytest.mark.slow


def test_a_dead_engine_thread_is_replaced(service: Faulty) -> None:
    """What was in it fails as its own fault, and the next request is served."""
    with nothing_left(service.server, restarts=1):
        service.inject("decode", "death")
        status, told = service.text()
        assert (status, told["error"]) == (500, "model_error")
        until(lambda: service.text()[0] == 200)
        assert service.works()


def test_a_killed_decoder_is_replaced(service: Faulty) -> None:
    """All processes that decode are killed at once: at most a refusal for now, then images are read again."""
    with nothing_left(service.server):
        helpers = worker_of(service.server).children()
        assert helpers
        for helper in helpers:
            helper.kill()
        told = [service.image() for _ in range(len(helpers) + 1)]
        assert {status for status, _ in told} <= {200, 503}
        assert all(answer.get("error", "overloaded") == "overloaded" for _, answer in told)
        until(lambda: service.image()[0] == 200)
        assert service.works()


def test_a_decoder_that_stands_still_ends_with_the_deadline(service: Faulty) -> None:
    """Its process is killed and replaced; the client is told in time."""
    with nothing_left(service.server):
        helpers = worker_of(service.server).children()
        for helper in helpers:
            helper.send_signal(signal.SIGSTOP)
        status, told = service.image()
        assert (status, told["error"]) == (504, "deadline_exceeded")
        for helper in helpers:
            if helper.is_running():
                helper.send_signal(signal.SIGCONT)
        until(lambda: service.image()[0] == 200)
        assert service.works()


def test_files_that_cannot_grow_refuse_large_bodies_only(service: Faulty) -> None:
    """The limit of a file's size stands in for a full disk: a body that needs a file is 503, others are served."""
    worker = worker_of(service.server)
    before = worker.rlimit(psutil.RLIMIT_FSIZE)
    with nothing_left(service.server):
        worker.rlimit(psutil.RLIMIT_FSIZE, (1, before[1]))
        try:
            status, told = service.large()
            assert (status, told["error"]["code"]) == (503, "overloaded")
            assert service.text()[0] == 200
        finally:
            worker.rlimit(psutil.RLIMIT_FSIZE, before)
        assert service.works()


def test_exhausted_descriptors_refuse_nobody_for_good(service: Faulty) -> None:
    """Connections beyond the limit wait or are closed; the service goes on, and serves once there are some again."""
    worker = worker_of(service.server)
    before = worker.rlimit(psutil.RLIMIT_NOFILE)
    with nothing_left(service.server):
        worker.rlimit(psutil.RLIMIT_NOFILE, (worker.num_fds() + 3, before[1]))
        held = [service.server.connect() for _ in range(20)]
        try:
            assert worker.is_running()
        finally:
            worker.rlimit(psutil.RLIMIT_NOFILE, before)
            for connection in held:
                connection.close()
        until(lambda: service.text()[0] == 200)
        assert worker.is_running()
        assert service.works()


def test_a_killed_worker_is_replaced(service: Faulty) -> None:
    """Its clients lose their connections at once, and the next request is served by another."""
    killed = worker_of(service.server)
    helpers = killed.children()
    service.hold()
    service.inject("decode", "stall")
    with ThreadPoolExecutor() as pool:
        lost = pool.submit(service.text)
        until(lambda: service.was_hit("decode"))
        killed.kill()
        with pytest.raises((OSError, EOFError)):
            lost.result(PATIENCE)
    service.heal()
    until(lambda: ready(service.server))
    service.warm_up()
    until(lambda: not any(helper.is_running() for helper in helpers))


def test_a_lost_device_ends_the_service(own_service: Faulty) -> None:
    """After a CUDA error the answer in flight is typed; the exit status has the supervisor start a new process."""
    server = own_service.server
    before = worker_of(server)
    own_service.inject("decode", "cuda")
    status, told = own_service.text()
    assert (status, told["error"]) == (500, "model_error")
    assert server.ended() != 0
    assert not before.is_running()


def test_the_limits_that_stand_in_for_faults_exist() -> None:
    """On this system the limits of a running process can be changed."""
    assert resource.RLIMIT_FSIZE == psutil.RLIMIT_FSIZE
