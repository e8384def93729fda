"""What computes on the processor's cores is counted, and a model's step takes what is left."""

import threading
from contextlib import ExitStack

import pytest

from engine.cores import Cores


@pytest.mark.parametrize(
    ("cores", "jobs", "share"), [(1, 0, 1), (2, 0, 2), (2, 1, 1), (2, 2, 1), (16, 2, 14), (16, 40, 1)]
)
def test_a_step_leaves_a_core_to_each_job(cores, jobs, share):
    counted = Cores()
    with ExitStack() as running:
        for _ in range(jobs):
            running.enter_context(counted.job())
        with counted.step(cores) as taken:
            assert taken == share
    with counted.step(cores) as taken:
        assert taken == cores


@pytest.mark.parametrize(("cores", "jobs", "shares"), [(2, 0, [2, 1]), (16, 0, [16, 8, 5]), (16, 2, [14, 7, 4])])
def test_models_that_compute_at_once_share_the_cores(cores, jobs, shares):
    """Each step as many as compute when it begins; the next one of a model that computes alone takes all again."""
    counted = Cores()
    with ExitStack() as running:
        for _ in range(jobs):
            running.enter_context(counted.job())
        assert [running.enter_context(counted.step(cores)) for _ in shares] == shares
    with counted.step(cores) as taken:
        assert taken == cores


@pytest.mark.parametrize("kind", ["job", "step"])
def test_what_fails_is_not_counted_any_longer(kind):
    counted = Cores()
    with pytest.raises(OSError, match="injected"), counted.job() if kind == "job" else counted.step(4):
        raise OSError("injected")
    with counted.step(4) as taken:
        assert taken == 4


def test_nothing_is_lost_between_threads():
    counted, together = Cores(), threading.Barrier(8)

    def work():
        together.wait()
        for _ in range(2000):
            with counted.job(), counted.step(4):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with counted.step(4) as taken:
        assert taken == 4
