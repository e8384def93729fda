"""How a real Gunicorn stops: admitted requests are answered, later ones are refused with a message, the status is 0."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.gunicorn_process import until

pytestmark = pytest.mark.slow


def test_stop_finishes_what_was_admitted_and_refuses_the_rest(gunicorn):
    """SIGTERM: the request in flight is answered, a new one gets 503 meanwhile, then the status is 0."""
    server = gunicorn()
    server.say("load")
    server.ready()
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGTERM)
        server.draining()
        assert server.get("/work", "POST") == (503, {"error": "not_ready"})
        server.say("answer")
        assert admitted.result()[1]["answer"] == "done"
    assert server.ended() == 0


def test_drain_ends_when_its_time_is_up(gunicorn):
    """A request that outlasts DRAIN_SECONDS is aborted and answered, and the service ends with 0."""
    server = gunicorn(DRAIN_SECONDS="1")
    server.say("load")
    server.ready()
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGTERM)
        assert admitted.result()[1]["answer"] == "aborted"
    assert server.ended() == 0


def test_stop_during_the_load_ends_at_once(gunicorn):
    """A load cannot be interrupted; the process does not wait for it and still ends with 0."""
    server = gunicorn()
    server.answering()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert server.log().count("Booting worker") == 1


def test_interrupt_aborts_what_runs(gunicorn):
    """Ctrl+C does not wait for the answers: the engine is stopped and the status is 0."""
    server = gunicorn(DRAIN_SECONDS="300")
    server.say("load")
    server.ready()
    with ThreadPoolExecutor() as pool:
        pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGINT)
        server.wait_for("stopped")
        assert server.ended() == 0


def test_second_stop_changes_nothing(gunicorn):
    """SIGTERM twice is one stop."""
    server = gunicorn()
    server.say("load")
    worker = server.ready()["pid"]
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGTERM)
        server.draining()
        server.signal(signal.SIGTERM)
        server.send(worker, signal.SIGTERM)
        server.say("answer")
        assert admitted.result()[1]["answer"] == "done"
    assert server.ended() == 0
    assert server.log().count("new ones are refused") == 1


def test_model_that_only_a_restart_cures_ends_the_service(gunicorn):
    """What is open is aborted and answered; the status tells the supervisor to start it again; the log says why."""
    server = gunicorn(DRAIN_SECONDS="60")
    server.say("load")
    server.ready()
    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.say("dead")
        assert admitted.result()[1]["answer"] == "aborted"
    assert server.ended() == 4
    assert "A model needs a new process" in server.log()
    assert server.log().count("Booting worker") == 1


def test_stop_takes_requests_for_the_delay_that_balancers_need(gunicorn):
    """DRAIN_DELAY: readiness is 503 at once; requests are still answered during the delay and refused after it."""
    server = gunicorn(DRAIN_DELAY="10")
    server.say("load")
    server.say("answer")
    server.ready()
    server.signal(signal.SIGTERM)
    server.draining()
    assert server.get("/work", "POST")[1]["answer"] == "done"
    assert server.ended() == 0
    log = server.log()
    assert log.index("requests are accepted for another 10 s") < log.index("new ones are refused")


def test_no_connection_to_a_stopping_service_is_left_hanging(gunicorn):
    """Up to its last moment a connection is answered or refused by the kernel, never accepted and reset."""
    server = gunicorn()
    server.say("load")
    server.ready()
    outcomes = []

    def knock():
        while outcomes.count(ConnectionRefusedError) < 100:
            try:
                outcomes.append(server.get("/work", "POST")[0])
            except ConnectionRefusedError as error:
                outcomes.append(type(error))

    with ThreadPoolExecutor() as pool:
        admitted = pool.submit(server.get, "/work", "POST")
        server.wait_for("working")
        server.signal(signal.SIGTERM)
        server.draining()
        knockers = [pool.submit(knock) for _ in range(3)]
        until(lambda: outcomes.count(503) > 50)
        server.say("answer")
        assert [knocker.result() for knocker in knockers] == [None] * 3
        assert admitted.result()[1]["answer"] == "done"
    assert set(outcomes) == {503, ConnectionRefusedError}
    assert server.ended() == 0


def test_worker_that_was_stopped_alone_is_replaced_and_serves(gunicorn):
    """SIGTERM to the worker: its master starts another, which listens on the same address."""
    server = gunicorn()
    server.say("load")
    first = server.ready()["pid"]
    server.send(first, signal.SIGTERM)

    def successor():
        state = server.answering()
        return state and state["pid"] != first and state["ready"]

    until(successor)
