"""Small schemas are rewritten in their request's thread, all others in a process, with the same outcome."""

import sys
import threading
import time

import pytest

from edge import turns
from engine.errors import RequestAborted, ValidationError
from engine.text.grammar_trials import GrammarProcesses, NoTrials
from engine.text.schema.elsewhere import Job, Outcome, outcome_of
from engine.text.schema.expander import MAX_WORK, Work
from engine.wanted import Wanted
from routes.chat import rewriting
from routes.chat.rewriting import QUICK_WORK, Rewriting
from routes.chat.schemas import blamed, rewritten
from tests.fakes import PATIENCE
from tests.routes.test_bounded_work import COSTLY

SMALL = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}}
REFUSED = {"type": "object", "properties": {"a": {"$ref": "https://example.com/schema"}}}
HARD = {"type": "object", "properties": {"b": {"type": "string", "pattern": "^(a{1,900}b?){1,900}c$"}, "a": {}}}


def large(options=6):
    """Return a schema whose alternatives are combined: each of the first with each of the second and third."""
    alternatives = [
        {
            "anyOf": [
                {"required": [f"{letter}{n}"], "properties": {f"{letter}{n}": {"const": n}}} for n in range(options)
            ]
        }
        for letter in "abc"
    ]
    return {"type": "object", "allOf": alternatives}


class Trials(NoTrials):
    """Does jobs here, and notes them."""

    def __init__(self):
        self.jobs = []

    def rewrite(self, job, seconds):
        self.jobs.append(job)
        return super().rewrite(job, seconds)


@pytest.fixture
def trials():
    """What notes the jobs of processes."""
    return Trials()


@pytest.fixture
def rewriter(trials):
    """The rewriter of one request."""
    made = Rewriting(trials)
    yield made.of_request(Wanted())
    made.close()


@pytest.fixture
def processes():
    """A real process."""
    made = GrammarProcesses(1)
    made.start()
    yield made
    made.stop()


def test_a_small_schema_is_rewritten_here(rewriter, trials):
    """No process is asked, and the work that it took is counted."""
    work = Work()
    assert rewritten(SMALL, "a", work, rewriter) == rewritten(SMALL, "a")
    assert 0 < MAX_WORK - work.left < QUICK_WORK
    assert trials.jobs == []


def test_a_small_schema_is_refused_here(rewriter, trials):
    """What cannot be enforced is known without a process."""
    with pytest.raises(ValidationError, match=r"^form uses what cannot be enforced: \$ref"):
        rewritten(REFUSED, "form", None, rewriter)
    assert trials.jobs == []


def test_a_large_schema_is_rewritten_elsewhere(rewriter, trials):
    """With all the work that is left for it, which is counted as here."""
    here, there = Work(), Work()
    expected = rewritten(large(), "a", here)
    assert MAX_WORK - here.left > 2 * QUICK_WORK
    assert rewritten(large(), "a", there, rewriter) == expected
    assert trials.jobs == [Job(large(), MAX_WORK)]
    assert there.left == here.left


def test_what_is_left_for_a_schema_is_not_exceeded(rewriter, trials):
    """Neither here, where it is less than what is quick, nor elsewhere."""
    for left, asked in ((3, 0), (QUICK_WORK + 100, 1)):
        with pytest.raises(ValidationError, match="is too complex"):
            rewritten(large(), "a", Work(left), rewriter)
        assert len(trials.jobs) == asked


def test_what_is_quick_is_so_for_all_schemas_of_a_request(rewriter, trials, monkeypatch):
    """Many of them together keep the interpreter no longer than one."""
    spent, done = [], outcome_of

    def noted(job):
        outcome = done(job)
        spent.append(min(job.work, job.work - outcome.work))
        return outcome

    monkeypatch.setattr(rewriting, "outcome_of", noted)
    for number in range(200):
        schema = {"type": "object", "properties": {f"{letter}{number}": {} for letter in "abcdefg"}}
        assert rewritten(schema, "a", None, rewriter) == rewritten(schema, "a")
    assert sum(spent) == QUICK_WORK
    assert len(spent) + len(trials.jobs) == 201  # the one that was begun here, too


def test_others_have_the_turn_meanwhile(rewriter, trials, monkeypatch):
    """It is left before the process is asked, and taken again before the request goes on."""
    order, done = [], trials.rewrite
    monkeypatch.setattr(turns, "leave", lambda: order.append("leave"))
    monkeypatch.setattr(turns, "take", lambda: order.append("take"))
    monkeypatch.setattr(trials, "rewrite", lambda *given: order.append("rewrite") or done(*given))
    rewritten(SMALL, "a", None, rewriter)
    assert order == []
    rewritten(large(), "a", None, rewriter)
    assert order == ["leave", "rewrite", "take"]


def test_a_schema_is_blamed_elsewhere(rewriter, trials):
    """Its strings are tried, which takes up to a second."""
    refusal = blamed({"form": HARD}, rewriter)
    assert str(refusal.message) == str(blamed({"form": HARD}).message)
    assert "pattern" in refusal.message
    (job,) = trials.jobs
    assert 0 < job.blame_seconds <= 1


@pytest.mark.parametrize(
    "schema", [SMALL, REFUSED, HARD, large(), {"const": "\ud800 \u2028"}, {"enum": [10**30, 1e300]}]
)
@pytest.mark.parametrize("blame_seconds", [None, PATIENCE])
def test_a_process_has_the_same_outcome(processes, schema, blame_seconds):
    """Whatever comes of it."""
    job = Job(schema, MAX_WORK, blame_seconds)
    assert processes.rewrite(job, PATIENCE) == outcome_of(job)


def test_the_most_work_fits_into_a_process(processes):
    """It is refused as what it is, not for the memory that it takes."""
    pids = processes.pids
    outcome = processes.rewrite(Job(COSTLY["every size of a large object"], MAX_WORK), PATIENCE)
    assert outcome.work < 0
    assert outcome.message.startswith("is too complex")
    assert processes.pids == pids


def test_who_leaves_does_not_wait_for_a_process(trials):
    """The thread of a request whose client is gone goes on at once."""
    asked, release, wanted = threading.Event(), threading.Event(), Wanted()

    def held(job, seconds):
        asked.set()
        assert release.wait(PATIENCE)
        return Outcome(0)

    trials.rewrite = held
    made = Rewriting(trials)
    threading.Thread(target=lambda: asked.wait(PATIENCE) and wanted.cancel(), daemon=True).start()
    try:
        with pytest.raises(RequestAborted):
            rewritten(large(), "a", None, made.of_request(wanted))
    finally:
        release.set()
        made.close()


def test_a_schema_that_does_not_end_is_refused_by_its_field(monkeypatch):
    """And the process that was killed for it is replaced."""
    monkeypatch.setattr(rewriting, "SECONDS", 0.2)
    hangs = "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'R'); time.sleep(1e6)"
    pool = GrammarProcesses(1, [sys.executable, "-c", hangs, "{socket}"])
    pool.start()
    made = Rewriting(pool)
    try:
        (pid,) = pool.pids
        with pytest.raises(ValidationError, match=r"^form is too complex\.$") as refused:
            rewritten(large(), "form", None, made.of_request(Wanted(deadline=time.monotonic() + PATIENCE)))
        assert refused.value.param == "form"
    finally:
        made.close()
        pool.stop()
    assert pid not in pool.pids


def test_without_a_process_it_is_done_here():
    """None can be started now."""
    pool = GrammarProcesses(1, ["/does/not/exist"])
    pool.start()
    assert pool.rewrite(Job(SMALL, MAX_WORK), PATIENCE) == outcome_of(Job(SMALL, MAX_WORK))
