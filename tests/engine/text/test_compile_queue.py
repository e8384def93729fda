"""Grammars are compiled in an order that is fair between clients, and no client has all threads or places."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from engine import thread_start
from engine.errors import Overloaded, ValidationError
from engine.text.compile_queue import LATELY, LINE_SECONDS, MANY, REST, Compilation, CompileQueue, _result
from engine.wanted import Wanted
from tests.fakes import PATIENCE, Clock
from tests.held_jobs import HeldJobs
from tests.timing import NewThreads


class Compiler(HeldJobs):
    """A queue whose jobs are held, with a clock of its own."""

    def __init__(self, **limits):
        super().__init__()
        self.clock = Clock()
        self.queue = CompileQueue(clock=self.clock, **limits)

    def submit(self, name):
        """Submit a job of the client that its name begins with."""
        return self.queue.submit(name[0], lambda: self.do(name))


@pytest.fixture
def compiler():
    """Make a compiler of one's own limits; it is closed, and its jobs let go."""
    made = []

    def make(**limits):
        made.append(Compiler(**limits))
        return made[-1]

    yield make
    for one in made:
        one.let_go(*(f"{client}{number}" for client in "abcde" for number in range(10)))
        one.queue.close()


def test_clients_take_turns(compiler):
    """A client that has sent many waits behind the first one of each other, and then behind the second."""
    alone = compiler(threads=1)
    jobs = [alone.submit("a0")]
    alone.wait_for("a0")
    jobs += [alone.submit(name) for name in ("a1", "a2", "a3", "b0", "b1", "c0")]
    alone.let_go("a0", "a1", "a2", "a3", "b0", "b1", "c0")
    assert [job.result(PATIENCE) for job in jobs] == ["a0", "a1", "a2", "a3", "b0", "b1", "c0"]
    assert alone.begun == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_the_client_with_the_fewest_at_work_comes_first(compiler):
    """Whoever waits for longer; among equals the one whose turn was longest ago."""
    three = compiler(threads=3)
    three.submit("a0")
    three.wait_for("a0")
    three.submit("b0")
    three.wait_for("a0", "b0")
    three.submit("b1")
    three.wait_for("a0", "b0", "b1")
    for name in ("b2", "a1", "c0"):
        three.submit(name)
    three.let_go("b0")
    three.wait_for("a0", "b0", "b1", "c0")
    three.let_go("c0")
    three.wait_for("a0", "b0", "b1", "c0", "a1")


def test_no_client_has_every_thread(compiler):
    """One is left for another that might come; its grammar begins at once."""
    two = compiler(threads=2)
    slow = [two.submit(f"a{number}") for number in range(4)]
    two.wait_for("a0")
    quick = two.submit("b0")
    two.wait_for("a0", "b0")
    two.let_go("b0")
    assert quick.result(PATIENCE) == "b0"
    assert [job.running() for job in slow] == [True, False, False, False]
    two.let_go("a0")
    two.wait_for("a0", "b0", "a1")


def with_many(compiler, others):
    """Return a queue of two threads in which a client has many jobs, the first at work, and others have these; and the
    jobs of the client.
    """
    one = compiler(threads=2)
    jobs = [one.submit("a0")]
    one.wait_for("a0")
    jobs += [one.submit(f"a{number}") for number in range(1, 2 * MANY)]
    for name in others:
        one.submit(name)
    return one, jobs


def test_a_client_with_many_rests_while_others_have_some(compiler):
    """After each, so many times what it took; the others' go on meanwhile."""
    one, jobs = with_many(compiler, ["b0"])
    one.clock.advance(0.02)
    one.let_go("a0")
    assert jobs[0].result(PATIENCE) == "a0"
    one.let_go("b0", "b1", "c0", "c1")
    assert one.submit("b1").result(PATIENCE) == "b1"
    one.clock.advance(REST * 0.02 - 0.01)
    assert one.submit("c0").result(PATIENCE) == "c0"
    one.wait_for("a0", "b0", "b1", "c0")
    one.clock.advance(0.02)
    one.submit("c1")
    one.let_go("a1")
    assert jobs[1].result(PATIENCE) == "a1"


def test_a_client_rests_for_nobody_who_has_had_no_job_lately(compiler):
    one, jobs = with_many(compiler, [])
    one.clock.advance(1.0)
    one.let_go("a0", "b0")
    one.wait_for("a0", "a1")
    assert one.submit("b0").result(PATIENCE) == "b0"
    one.clock.advance(LATELY)
    one.let_go("a1")
    one.wait_for("a0", "a1", "b0", "a2")


def test_a_client_with_few_does_not_rest(compiler):
    one = compiler(threads=2)
    one.submit("a0")
    one.wait_for("a0")
    for name in ("b0", *(f"a{number}" for number in range(1, MANY - 1))):
        one.submit(name)
    one.clock.advance(0.5)
    one.let_go("a0")
    one.wait_for("a0", "b0", "a1")


@pytest.mark.parametrize(("many", "each"), [(2 * MANY, 0.5), (40, 0.05), (60, 0.02), (60, 0.001)])
def test_a_line_passes_in_time(many, each):
    """However long its jobs take: who waits is not refused for the others' sake. By a queue that no thread serves."""
    clock = Clock()
    queue = CompileQueue(threads=2, clock=clock)
    queue._to_start = 0
    queue._threads.submit = lambda work: None
    for _ in range(many):
        queue.submit("a", lambda: clock.advance(each))
    began = clock.now
    while queue._lines.get("a"):
        queue._asked["b"] = clock.now
        queue._lines.pop("b", None)
        clock.advance(queue._rest_of("a"))
        queue._do(queue._take())
    assert clock.now - began <= LINE_SECONDS + many * each + 1e-6
    assert clock.now - began >= min(LINE_SECONDS, REST * each * (many - MANY))


def test_a_rest_is_for_many_at_its_end_and_for_others_who_are_still_served(compiler):
    """What a client with few had taken keeps none of its later jobs waiting; a job of others counts while it lasts."""
    one = compiler(threads=2)
    one.let_go("b0")
    assert one.submit("b0").result(PATIENCE) == "b0"
    first = one.submit("a0")
    one.wait_for("b0", "a0")
    one.clock.advance(1.0)
    one.let_go("a0")
    assert first.result(PATIENCE) == "a0"
    for number in range(1, 2 * MANY):
        one.submit(f"a{number}")
    one.wait_for("b0", "a0", "a1")
    one.submit("c0")
    one.wait_for("b0", "a0", "a1", "c0")
    one.clock.advance(2 * LATELY)
    with one.queue._changed:
        one.queue._rests["a"] = one.clock.now + 5.0
        assert one.queue._rest_of("a") == 5.0


def test_the_close_of_a_queue_ends_a_rest(compiler):
    """No thread is left."""
    one, jobs = with_many(compiler, ["b0"])
    one.clock.advance(0.1)
    one.let_go("a0", "b0")
    assert jobs[0].result(PATIENCE) == "a0"
    one.queue.close()
    assert jobs[1].cancelled()
    one.queue._threads.shutdown(wait=True)


def test_a_client_alone_holds_half_of_the_places(compiler):
    """Beside it another has half of the rest, and who has none may take the last."""
    full = compiler(threads=1, most=8)
    for name in ("a0", "a1", "a2", "a3"):
        full.submit(name)
    with pytest.raises(Overloaded) as refused:
        full.submit("a4")
    assert refused.value.retry_after == 1
    for name in ("b0", "b1"):
        full.submit(name)
    with pytest.raises(Overloaded):
        full.submit("b2")
    for name in ("c0", "d0"):
        full.submit(name)
    with pytest.raises(Overloaded):
        full.submit("e0")


def test_a_cancelled_job_gives_its_place_back(compiler):
    """And is never begun."""
    alone = compiler(threads=1, most=2)
    first = alone.submit("a0")
    alone.wait_for("a0")
    left = alone.submit("b0")
    with pytest.raises(Overloaded):
        alone.submit("c0")
    assert left.cancel()
    last = alone.submit("c0")
    alone.let_go("a0", "b0", "c0")
    assert [job.result(PATIENCE) for job in (first, last)] == ["a0", "c0"]
    assert alone.begun == ["a0", "c0"]


def test_a_place_is_free_once_a_job_has_ended(compiler):
    """Before its client hears of it, which may send the next one at once; also if it failed."""
    alone = compiler(threads=1, most=1)
    alone.let_go("a0")

    def fail():
        raise ValueError("It does not compile.")

    for _ in range(20):
        assert alone.submit("a0").result(PATIENCE) == "a0"
        with pytest.raises(ValueError, match="does not compile"):
            alone.queue.submit("a", fail).result(PATIENCE)


def test_what_waits_is_cancelled_when_the_queue_is_closed(compiler):
    """So nobody waits for it in vain; what is at work comes to its end."""
    closed = compiler(threads=1)
    at_work = closed.submit("a0")
    closed.wait_for("a0")
    waiting = closed.submit("a1")
    closed.queue.close()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)
    closed.let_go("a0")
    assert at_work.result(PATIENCE) == "a0"


@pytest.mark.parametrize(
    ("began", "outcome"), [(None, Overloaded), (-1.0, ValidationError)], ids=["waits", "takes long"]
)
def test_only_what_has_taken_long_is_too_complex(began, outcome):
    """Not what others kept waiting; both are told in time."""
    compilation = Compilation()
    compilation.began = None if began is None else time.monotonic() + began
    with pytest.raises(outcome):
        _result(compilation, Wanted(), 0.5)


def test_a_compilation_that_began_late_has_its_time():
    """However long it waited."""
    compilation = Compilation()
    compilation.began = time.monotonic() + PATIENCE
    threading.Timer(0.2, compilation.set_result, ["compiled"]).start()
    assert _result(compilation, Wanted(), 0.1) == "compiled"


def test_all_threads_begin_with_the_first_job(compiler):
    """When more are wanted, there might be no room for another."""
    threads, queue = NewThreads(), compiler(threads=3).queue
    assert len(threads) == 0
    assert queue.submit("a", lambda: 1).result(PATIENCE) == 1
    assert len(threads) == 3


def test_a_job_for_which_no_thread_begins_is_refused_and_forgotten(compiler, monkeypatch):
    """The next one starts the threads, and waits for none that did not begin."""
    monkeypatch.setattr(thread_start, "SECONDS", 2 * PATIENCE)
    queue = compiler(threads=2, most=1).queue

    def no_room(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_room)
        with pytest.raises(RuntimeError):
            queue.submit("a", lambda: 1)
    assert queue.submit("a", lambda: 2).result(PATIENCE) == 2
