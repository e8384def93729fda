"""The ring of samples: content of an interval, bounded size, and the recorder thread."""

import gc
import sys
import weakref

from telemetry.metrics.history import FIRST_TOKENS, SAMPLES, History
from telemetry.metrics.machine import GpuFigures
from tests.e2e.gunicorn_process import until
from tests.fakes import Clock, FakeMachine, scripted_models


def history(models=None, machine=None):
    clock = Clock()
    return History(models or scripted_models(), machine or FakeMachine(), clock, clock), clock


def test_a_sample_holds_what_happened_since_the_last_one(models, avibe, avision):
    """Rates over the elapsed time, current states and errors by code; then the counters restart."""
    gpu = GpuFigures("GPU", allocated=25, reserved=30, total=100, busy=0.5)
    taken, clock = history(models, FakeMachine(gpu))
    avibe.report(
        generation_tokens_total=200, num_requests_waiting=3, kv_cache_tokens_used=1, kv_cache_tokens_capacity=4
    )
    for seconds in (0.1, 0.2, 0.4, None):
        taken.answered(seconds)
    taken.failed("overloaded")
    taken.failed("overloaded")
    clock.advance(4)
    taken.take()
    (sample,) = taken.samples()
    assert sample.at == clock.now
    assert sample.tokens == {"avibe": 50.0, "avision": 0.0}
    assert (sample.waiting["avibe"], sample.running["avibe"], sample.cache["avibe"]) == (3, 0, 0.25)
    assert (sample.gpu_memory, sample.gpu_busy) == ({"cuda:0": 0.25}, {"cuda:0": 0.5})
    assert (sample.first_token_p50, sample.first_token_p95, sample.answers) == (0.2, 0.4, 4)
    assert sample.errors == {"overloaded": 2}
    clock.advance(4)
    taken.take()
    later = taken.samples(after=sample.at)
    assert [(one.tokens["avibe"], one.first_token_p50, one.answers, one.errors) for one in later] == [
        (0.0, None, 0, {})
    ]


def test_an_engine_that_starts_again_makes_no_negative_rate(models, avibe):
    """A restarted engine counts from zero."""
    taken, clock = history(models)
    avibe.report(generation_tokens_total=100)
    taken.take()
    avibe.report(generation_tokens_total=10)
    clock.advance(5)
    taken.take()
    assert taken.samples()[-1].tokens["avibe"] == 0


def test_memory_is_bounded():
    """At most an hour of samples, and a bounded number of first-token times per interval."""
    taken, clock = history()
    for _ in range(SAMPLES + 10):
        clock.advance(5)
        taken.take()
    assert len(taken.samples()) == SAMPLES
    assert taken.samples()[-1].at - taken.samples()[0].at == 5 * (SAMPLES - 1)
    for number in range(FIRST_TOKENS * 2):
        taken.answered(float(number))
    taken.take()
    last = taken.samples()[-1]
    assert last.answers == FIRST_TOKENS * 2
    assert last.first_token_p50 == FIRST_TOKENS * 1.5 - 1
    sizes = sum(sys.getsizeof(getattr(last, name)) for name in type(last).__slots__)
    assert sizes * SAMPLES < 4_000_000


def test_recording_begins_once_and_ends_with_the_history():
    """One thread takes the first sample at once, and does not keep the history alive."""
    taken, _ = history()
    taken.record()
    taken.record()
    until(taken.samples)
    assert len(taken.samples()) == 1
    gone = weakref.ref(taken)
    del taken

    def collected():
        gc.collect()
        return gone() is None

    until(collected)
