"""What computes on the processor's cores is counted, and a model's step takes what is left."""

import threading
import time
from contextlib import ExitStack

import pytest

from engine.cores import PAUSE, Cores
from tests.fakes import PATIENCE, Clock


@pytest.mark.parametrize(
    ("cores", "jobs", "share"), [(1, 0, 1), (2, 0, 2), (2, 1, 1), (2, 2, 1), (16, 2, 14), (16, 40, 1)]
)
def test_a_step_leaves_a_core_to_each_job(cores, jobs, share):
    counted = Cores()
    with ExitStack() as running:
        for _ in range(jobs):
            running.enter_context(counted.job())
        with counted.step(cores, "a") as taken:
            assert taken == share
    with counted.step(cores, "a") as taken:
        assert taken == cores


@pytest.mark.parametrize(("cores", "jobs", "shares"), [(2, 0, [2, 1]), (16, 0, [16, 8, 5]), (16, 2, [14, 7, 4])])
def test_models_that_compute_at_once_share_the_cores(cores, jobs, shares):
    """Each step as many as compute when it begins, or have just computed; later one that is alone takes all again."""
    clock = Clock()
    counted = Cores(clock)
    with ExitStack() as running:
        for _ in range(jobs):
            running.enter_context(counted.job())
        steps = enumerate(shares)
        assert [running.enter_context(counted.step(cores, model)) for model, _ in steps] == shares
        clock.advance(1000 * PAUSE)  # however long their steps take
        with counted.step(cores, 0) as taken:
            assert taken == shares[-1]
    for ago, share in ((0.5, max(1, cores // len(shares))), (1.0, cores)):
        clock.advance(ago * PAUSE)
        with counted.step(cores, 0) as taken:
            assert taken == share


def test_a_job_begins_between_steps():
    """Those that have begun keep their cores, and a later one leaves a core to the job that waits."""
    counted, began = Cores(), threading.Event()
    counted.patience = PATIENCE

    def work():
        with counted.job():
            began.set()
            together.wait(PATIENCE)

    together, thread = threading.Barrier(2), threading.Thread(target=work)
    with counted.step(2, "a") as taken:
        assert taken == 2
        thread.start()
        while not counted.waiting:
            time.sleep(0)
        assert not began.is_set()
    assert began.wait(PATIENCE)
    with counted.step(2, "a") as taken:
        assert taken == 1
        with counted.job():  # a step of one core takes none from it
            pass
    together.wait(PATIENCE)
    thread.join()


def test_a_job_does_not_wait_for_a_step_that_takes_long():
    """Nor at all if it is told so; how long it waited is known."""
    counted = Cores()
    counted.patience = PATIENCE
    with counted.step(2, "a"), counted.job(wait=False):
        assert counted.waited == 0.0
    counted.patience = 0.01
    with counted.step(2, "a"), counted.job():
        assert counted.waited > 0.0


@pytest.mark.parametrize("kind", ["job", "step"])
def test_what_fails_is_not_counted_any_longer(kind):
    clock = Clock()
    counted = Cores(clock)
    with pytest.raises(OSError, match="injected"), counted.job() if kind == "job" else counted.step(4, "a"):
        raise OSError("injected")
    clock.advance(PAUSE)
    with counted.step(4, "b") as taken:
        assert taken == 4


def test_nothing_is_lost_between_threads():
    clock, together = Clock(), threading.Barrier(8)
    counted = Cores(clock)

    def work(model):
        together.wait()
        for _ in range(2000):
            with counted.job(), counted.step(4, model):
                pass

    threads = [threading.Thread(target=work, args=(model,)) for model in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.advance(PAUSE)
    with counted.step(4, "a") as taken:
        assert taken == 4
