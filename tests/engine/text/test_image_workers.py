"""The processes that decode images: the right pixels, and an end to what takes too long or nobody wants any more."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from io import BytesIO
from itertools import count

import psutil
import pytest
from PIL import Image

from engine.cores import Cores
from engine.errors import (
    DeadlineExceeded,
    NotReady,
    Overloaded,
    RequestAborted,
    StartError,
    UnsupportedMediaType,
    ValidationError,
)
from engine.text.image_decoder import Job, fitted
from engine.text.image_workers import ImageWorkers
from engine.text.worker_handle import START_SECONDS
from engine.text.worker_process import NICENESS
from engine.wanted import Wanted
from tests.engine.text.formats.files import icon
from tests.engine.text.test_images import png_claiming
from tests.fakes import Clock

FOR_EVER = 1e9
PATIENCE = 60.0
# Says that it is ready, then never answers; says so and dies at its first job.
HANGS = "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'R'); time.sleep(1e6)"
LATE = """
import os, sys, time

while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
from engine.text.image_worker import main

main(int(sys.argv[1]), 1 << 30)
"""
DIES = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'R'); s.recv(1)"


def command(script):
    return [sys.executable, "-S", "-c", script, "{socket}"]


@pytest.fixture
def workers():
    """Start pools; they are stopped in the end."""
    made = []

    def start(count=1, **options):
        made.append(ImageWorkers(count, **options))
        made[-1].start()
        return made[-1]

    yield start
    for pool in made:
        pool.stop()


def png(width=40, height=30, seed=0):
    rng = random.Random(seed)
    image = Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height))
    data = BytesIO()
    image.save(data, "PNG")
    return image, data.getvalue()


def job(data, factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 1280):
    return Job(data, factor, min_pixels, max_pixels)


def in_thread(call):
    """Run a call in a thread; return it and the list that its outcome is put into."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def until(condition):
    """Wait for a condition that another process or thread makes true."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up
        os.sched_yield()


def share(cores):
    """Return how many of four cores a model's step would take now."""
    with cores.step(4, "a") as taken:
        return taken


def gone(pid):
    """Whether a process has ended, whoever may still have to take note of it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("size", [(40, 30), (30, 400), (1000, 700), (28, 28), (3000, 16)])
def test_images_have_the_models_size_and_pixels(workers, size):
    """As the library's own processor resizes: to multiples of its factor, bicubic, from the decoded pixels."""
    image, data = png(*size)
    pixels = workers().decode(job(data), Wanted(FOR_EVER))
    wanted = image.resize(fitted(*size, 28, 56 * 56, 28 * 28 * 1280), Image.Resampling.BICUBIC)
    assert (pixels.width, pixels.height) == wanted.size
    assert pixels.data == wanted.tobytes()


def test_a_thumbnail_fits_into_its_side(workers):
    """The longer side is the one that was asked for."""
    pixels = workers().decode(Job(png(400, 300)[1], 0, 0, 100), Wanted(FOR_EVER))
    assert (pixels.width, pixels.height) == (100, 75)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (png()[1][:1000], ValidationError),
        (b"no image at all", UnsupportedMediaType),
        (png(2000, 5)[1], ValidationError),
        (icon((16, 16, 0, 32, png_claiming(30_000, 30_000))), ValidationError),
    ],
)
def test_what_cannot_be_decoded_is_the_clients_mistake(workers, data, error):
    """The process tells which mistake it is, and goes on."""
    pool = workers()
    before = pool.pids
    with pytest.raises(error) as raised:
        pool.decode(job(data), Wanted(FOR_EVER))
    assert type(raised.value) is error
    assert raised.value.message.key.startswith("image_")  # it can be translated
    pool.decode(job(png()[1]), Wanted(FOR_EVER))
    assert (pool.pids, pool.restarts) == (before, 0)


def test_a_job_that_takes_too_long_ends_with_its_process(workers):
    """It is the client's image that takes so long; the next job has a process again."""
    pool = workers(command=command(HANGS), seconds=0.2)
    before = pool.pids
    for _ in range(2):
        with pytest.raises(ValidationError, match="too long"):
            pool.decode(job(png()[1]), Wanted(FOR_EVER))
    assert pool.restarts == 2
    assert len(pool.pids) == 1
    assert gone(before[0])


def test_a_job_that_nobody_wants_ends_with_its_process(workers):
    """A client that leaves, or a deadline, ends the work and not only the wait for it."""
    cores, clock = Cores(), Clock()
    pool = workers(command=command(HANGS), cores=cores)
    for end, kind in ((Wanted.cancel, RequestAborted), (lambda _: clock.advance(1), DeadlineExceeded)):
        (before,), wanted = pool.pids, Wanted(clock() + 1, clock=clock)
        thread, outcome = in_thread(lambda wanted=wanted: pool.decode(job(png()[1]), wanted))
        until(lambda: share(cores) == 3)  # the job is with the process
        end(wanted)
        thread.join(PATIENCE)
        assert isinstance(outcome[0], kind)
        until(lambda before=before: gone(before))
    assert pool.restarts == 2


def test_an_image_takes_a_core_from_the_models_while_it_is_decoded(workers):
    """However that ends, and not while it waits for its turn."""
    cores = Cores()
    pool, wanted = workers(command=command(HANGS), cores=cores), [Wanted(FOR_EVER), Wanted(FOR_EVER)]
    threads = [in_thread(lambda one=one: pool.decode(job(png()[1]), one))[0] for one in wanted]
    until(lambda: share(cores) == 3)
    for one in wanted:
        one.cancel()
    for thread in threads:
        thread.join(PATIENCE)
    assert share(cores) == 4
    dying = workers(command=command(DIES), cores=cores)
    with pytest.raises(Overloaded):
        dying.decode(job(png()[1]), Wanted(FOR_EVER))
    workers(cores=cores).decode(job(png()[1]), Wanted(FOR_EVER))
    assert share(cores) == 4


def test_clients_that_leave_keep_no_process_from_starting(workers, tmp_path):
    """A process that is not ready yet has done nothing of a job: it goes on, unless it takes too long itself.

    Each client leaves at the third look whether it is still there, which is made while it waits for that process.
    """
    may_start, clock = tmp_path / "may start", Clock()
    may_start.touch()
    pool = workers(command=[sys.executable, "-c", LATE, "{socket}", str(may_start)], clock=clock)
    may_start.unlink()
    os.kill(pool.pids[0], signal.SIGKILL)
    with pytest.raises(Overloaded):
        pool.decode(job(png()[1]), Wanted(FOR_EVER))
    starting = pool.pids
    for _ in range(2):
        with pytest.raises(DeadlineExceeded):
            pool.decode(job(png()[1]), Wanted(3, clock=count().__next__))
        assert (pool.pids, pool.restarts) == (starting, 1)
    clock.advance(START_SECONDS)
    with pytest.raises(DeadlineExceeded):
        pool.decode(job(png()[1]), Wanted(3, clock=count().__next__))
    assert pool.restarts == 2
    started = pool.pids
    assert started != starting
    may_start.touch()
    pool.decode(job(png()[1]), Wanted(FOR_EVER))
    assert (pool.pids, pool.restarts) == (started, 2)


def test_a_process_that_dies_is_replaced(workers):
    """Whatever killed it: the job is refused for now, as the service's own trouble."""
    pool = workers(command=command(DIES))
    with pytest.raises(Overloaded):
        pool.decode(job(png()[1]), Wanted(FOR_EVER))
    assert (pool.restarts, len(pool.pids)) == (1, 1)


def test_an_image_that_takes_too_much_memory_is_refused_for_now(workers):
    """The process has a bound of its own, and this one is none the worse."""
    data = BytesIO()
    Image.new("RGB", (6300, 6300)).save(data, "WEBP", lossless=True)
    pool = workers(memory_bytes=400 << 20)
    with pytest.raises(Overloaded):
        pool.decode(job(data.getvalue()), Wanted(FOR_EVER))
    pool.decode(job(png()[1]), Wanted(FOR_EVER))


def test_one_client_does_not_take_every_process(workers):
    """While its jobs hang, another client's are done."""
    pool = workers(count=2, command=command(HANGS))
    greedy = [Wanted(FOR_EVER, "greedy") for _ in range(4)]
    threads = [in_thread(lambda wanted=wanted: pool.decode(job(png()[1]), wanted))[0] for wanted in greedy]
    until(lambda: len(pool._idle) == 1 and sum(map(len, pool._lines.values())) == 3)
    other = Wanted(FOR_EVER, "other")
    threads.append(in_thread(lambda: pool.decode(job(png()[1]), other))[0])
    until(lambda: sorted(pool._busy.values()) == ["greedy", "other"])
    for wanted in (*greedy, other):
        wanted.cancel()
    for thread in threads:
        thread.join(PATIENCE)
    assert (len(pool._idle), pool._busy, pool._lines) == (2, {}, {})


def test_a_ready_process_is_taken_before_one_that_is_starting(workers, tmp_path):
    """What one client's image does to its process is not waited for by another, nor put forward by who leaves it."""
    may_start = tmp_path / "may start"
    may_start.touch()
    pool = workers(count=3, command=[sys.executable, "-c", LATE, "{socket}", str(may_start)])
    may_start.unlink()
    for restarts in (1, 2):
        os.kill(pool._idle[-1].pid, signal.SIGKILL)
        with pytest.raises(Overloaded):
            pool.decode(job(png()[1]), Wanted(FOR_EVER, "one"))
        assert [process.ready for process in pool._idle] == [False] * restarts + [True] * (3 - restarts)
    taken = [pool._take(Wanted(FOR_EVER, client)) for client in ("one", "two", "three")]
    assert [process.ready for process in taken] == [True, False, False]
    for process in taken:
        pool._give_back(process)
    assert pool._idle[-1] is taken[0]


def test_a_stop_ends_every_process_and_every_wait(workers):
    """Nobody is left behind: no process, and nobody who waits for one."""
    pool = workers(command=command(HANGS))
    running = in_thread(lambda: pool.decode(job(png()[1]), Wanted(FOR_EVER)))
    until(lambda: pool._busy)
    waiting = in_thread(lambda: pool.decode(job(png()[1]), Wanted(FOR_EVER)))
    until(lambda: pool._lines)
    pids = pool.pids
    pool.stop()
    for thread, outcome in (running, waiting):
        thread.join(PATIENCE)
        assert isinstance(outcome[0], Overloaded | NotReady)
    assert all(gone(pid) for pid in pids)


def test_a_stop_of_the_service_is_not_theirs(workers):
    """A service manager signals every process; those under way finish, since the service drains."""
    pool = workers()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pool.pids[0], number)
    pool.decode(job(png()[1]), Wanted(FOR_EVER))
    assert pool.restarts == 0


def test_processes_end_with_the_service(tmp_path):
    """Even where it is killed while they work, and whichever thread has started them."""
    script = """
import sys, threading, time
from engine.text.image_decoder import Job
from engine.text.image_workers import ImageWorkers
from engine.wanted import Wanted

pool = ImageWorkers(2)
starter = threading.Thread(target=pool.start)
starter.start()
starter.join()
image = open(sys.argv[1], "rb").read()
pool.decode(Job(image, 0, 0, 10), Wanted())  # the thread that started them is gone, and they are not
print(*pool.pids, flush=True)
time.sleep(1e6)
"""
    file = tmp_path / "image.png"
    file.write_bytes(png()[1])
    service = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in service.stdout.readline().split()]
    assert len(pids) == 2
    service.kill()
    service.communicate(timeout=60)
    until(lambda: all(gone(pid) for pid in pids))


def test_a_process_that_cannot_be_replaced_is_tried_again(workers, monkeypatch):
    """Out of descriptors or memory, its place stays, and is filled once there are some again."""
    pool = workers(command=command(DIES))

    def refuse(*args, **kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        for _ in range(2):
            with pytest.raises(Overloaded):
                pool.decode(job(png()[1]), Wanted(FOR_EVER))
        with pytest.raises(StartError):
            ImageWorkers(1).start()
    assert pool.restarts == 0
    assert not pool._idle[0].ready  # so others are taken before it
    with pytest.raises(Overloaded):
        pool.decode(job(png()[1]), Wanted(FOR_EVER))
    assert (pool.restarts, len(pool.pids)) == (1, 1)


def test_processes_that_cannot_start_stop_the_start():
    """By name, and without leaving any behind."""
    with pytest.raises(StartError, match="decode images"):
        ImageWorkers(2, command=command("pass")).start()


def test_the_service_runs_before_its_helpers(workers):
    """They add to the nice value of the process that serves, so that on busy cores the engine goes on first."""
    own = psutil.Process().nice()
    assert [psutil.Process(pid).nice() for pid in workers(2).pids] == [own + NICENESS] * 2
