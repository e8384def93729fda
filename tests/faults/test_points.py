"""A fault at each point that a request passes: its client is told, the next request works, and nothing is left."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.gunicorn_process import until
from tests.faults.conftest import LIMITS
from tests.faults.faulty import Faulty
from tests.integrity import nothing_left

pytestmark = pytest.mark.slow

# Each point with the status of a failure that nobody foresees there.
TEXT_POINTS = {
    "parsing": 500,
    "queue": 500,
    "tokenizing": 500,
    "prefill": 500,
    "decode": 500,
    "detokenizing": 500,
}
TYPED = {"internal_error", "model_error", "overloaded", "deadline_exceeded", "not_ready"}


@pytest.mark.parametrize("kind", ["fail", "memory"])
@pytest.mark.parametrize("point", TEXT_POINTS)
def test_a_failure_at_any_point_ends_typed(service: Faulty, point: str, kind: str) -> None:
    """One request fails with a code of ours; lack of memory is 503 where it comes before the model."""
    with nothing_left(service.server):
        service.inject(point, kind, times=1 if point not in ("prefill", "decode") else 20)
        status, told = service.text()
        service.heal()
        if kind == "memory" and point == "prefill":
            assert status == 200  # the prompt is read in smaller parts
        else:
            assert (status >= 500, told["error"] in TYPED) == (True, True), told
        if kind == "memory" and point in ("parsing", "queue", "tokenizing"):
            assert (status, told["error"]) == (503, "overloaded")
        assert service.works()


@pytest.mark.parametrize("kind", ["fail", "memory"])
def test_a_failure_while_an_image_is_decoded_ends_typed(service: Faulty, kind: str) -> None:
    """As for texts: nothing of ours is told as the client's mistake."""
    with nothing_left(service.server):
        service.inject("decoding", kind)
        status, told = service.image()
        assert (status, told["error"]) == ((503, "overloaded") if kind == "memory" else (500, "internal_error"))
        assert service.works()


@pytest.mark.parametrize("kind", ["fail", "memory"])
@pytest.mark.parametrize("point", ["reading-head", "reading-body"])
def test_a_failure_while_a_request_is_read_harms_no_other(service: Faulty, point: str, kind: str) -> None:
    """It ends typed, in the shape of the path where that is known; the poller goes on with everybody else's."""
    with nothing_left(service.server):
        service.inject(point, kind)
        status, told = service.large()
        code = told["error"] if point == "reading-head" else told["error"]["code"]
        assert (status, code) == ((503, "overloaded") if kind == "memory" else (500, "internal_error"))
        assert service.works()


def test_a_full_disk_is_told_to_whose_body_needs_it(service: Faulty) -> None:
    """A body that cannot be kept in its file is 503; smaller ones need none."""
    with nothing_left(service.server):
        service.inject("storing", "disk")
        status, told = service.large()
        assert (status, told["error"]["code"]) == (503, "overloaded")
        assert service.works()


@pytest.mark.parametrize("kind", ["fail", "memory", "disk"])
def test_a_failure_while_an_answer_is_sent_frees_everything(service: Faulty, kind: str) -> None:
    """The client loses its connection at most; its slot is free."""
    with nothing_left(service.server):
        service.inject("sending", kind)
        try:
            service.stream()
        except OSError:
            pass  # nothing could be sent
        assert service.works()


@pytest.mark.parametrize("point", ["prefill", "decode"])
def test_a_stalled_step_ends_typed_by_the_deadline(service: Faulty, point: str) -> None:
    """Its client and those who wait behind it are answered while the step still stands."""
    with nothing_left(service.server), ThreadPoolExecutor() as pool:
        service.hold()
        service.inject(point, "stall")
        first = pool.submit(service.text, max_tokens=50)
        until(lambda: service.was_hit(point))
        second = pool.submit(service.text)
        assert {answer.result()[1]["error"] for answer in (first, second)} <= {"deadline_exceeded", "overloaded"}
        service.go()
        until(lambda: service.text()[0] == 200)
        assert service.works()


@pytest.mark.parametrize("point", ["parsing", "tokenizing", "queue"])
def test_a_stall_of_one_request_delays_no_other(service: Faulty, point: str) -> None:
    """Others are answered while one stands still; once it goes on its time is over, which counts from its arrival."""
    with nothing_left(service.server), ThreadPoolExecutor() as pool:
        service.hold()
        service.inject(point, "stall")
        stalled = pool.submit(service.text)
        until(lambda: service.was_hit(point))
        over = time.monotonic() + float(LIMITS["REQUEST_TIMEOUT"])
        assert service.works()
        until(lambda: time.monotonic() > over)
        service.go()
        assert stalled.result()[1].get("error") == "deadline_exceeded"
        assert service.works()


def test_no_further_thread_is_needed_to_answer(service: Faulty) -> None:
    """At the limit of tasks, requests are answered by the threads that there are."""
    with nothing_left(service.server):
        service.inject("thread", "threads", times=50)
        assert service.works()


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_a_clock_that_jumps_ends_no_request(service: Faulty, jump: float) -> None:
    """Deadlines are measured on a clock that does not jump."""
    with nothing_left(service.server), ThreadPoolExecutor() as pool:
        service.hold()
        service.inject("decode", "stall")
        under_way = pool.submit(service.text)
        until(lambda: service.was_hit("decode"))
        service.server.say("clock", str(jump))
        service.go()
        assert under_way.result()[0] == 200
        assert service.works()
