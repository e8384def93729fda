"""The processes that try new grammars: one that does not end is killed, and costs its own request alone."""

import os
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from llguidance import LLMatcher

from engine.cores import CORES, Cores
from engine.errors import Overloaded, ValidationError
from engine.text import grammar as grammar_module
from engine.text.compile_queue import CompileQueue
from engine.text.grammar import SLOW_SECONDS, GrammarRefused, Grammars, json_grammar, lark_grammar
from engine.text.grammar_limits import fault
from engine.text.grammar_trials import MEMORY_BYTES, GrammarProcesses, NoTrials
from engine.text.grammar_worker import try_grammar
from engine.text.schema.probe import byte_tokenizer
from engine.types import Vocabulary
from tests.fakes import Clock
from tests.masks import bitmask_of

LETTERS = Vocabulary(
    (b"", *[bytes([code]) for code in range(1, 256)]), frozenset({0}), lambda text: list(text.encode())
)
OBJECT = json_grammar('{"type": "object"}')
PATIENCE = 60.0
# Says that it is ready, then never answers; says so and dies at its first job; never gets ready.
HANGS = "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'R'); time.sleep(1e6)"
DIES = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.sendall(b'R'); s.recv(1)"
# Hangs at grammars that have "hang" in them; tries others.
SOMETIMES = """
import sys, time
from engine.text import grammar_worker
tried = grammar_worker.try_grammar
grammar_worker.try_grammar = lambda grammar: time.sleep(1e6) if "hang" in grammar else tried(grammar)
grammar_worker.main(int(sys.argv[1]), 1 << 28)
"""


@pytest.fixture
def processes():
    """Start pools; they are stopped in the end."""
    made = []

    def start(script=None, count=1, clock=time.monotonic, cores=CORES):
        command = None if script is None else [sys.executable, "-c", script, "{socket}"]
        made.append(GrammarProcesses(count, command, clock, cores))
        made[-1].start()
        return made[-1]

    yield start
    for pool in made:
        pool.stop()


def alive(pid):
    """Return whether a process of ours has not been killed and waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_grammars_are_tried_one_after_another(processes):
    """Good ones, and such as the library refuses: that is for the compilation to say."""
    trials = processes()
    pids = trials.pids
    for grammar in (OBJECT, lark_grammar("start: missing"), lark_grammar("start: /(/"), OBJECT):
        trials.check(grammar, PATIENCE)
    assert trials.pids == pids


def test_what_exceeds_the_limits_is_refused_without_the_service(processes, monkeypatch):
    """It is not compiled again; what is refused for something else is, and knows its place."""
    trials = processes()
    grammars = Grammars(LETTERS, trials=trials)
    attempted = []
    attempt = Grammars._attempted
    monkeypatch.setattr(Grammars, "_attempted", lambda own, one: attempted.append(one) or attempt(own, one))
    patterns = " & ".join(f"/(.|\\n)*{letter}(.|\\n){{{number}}}/" for number, letter in enumerate("abcdefghijkl", 7))
    mistakes = ("start: missing", "start: speed_limit", 'start: "too many', 'start: "a" missing // the limit')
    try:
        with pytest.raises(ValidationError, match="is too complex"):
            grammars.mask(lark_grammar(f"start: X\nX: {patterns}"))
        assert attempted == []
        for mistake in mistakes:
            with pytest.raises(GrammarRefused) as refused:
                grammars.mask(lark_grammar(mistake))
            assert refused.value.place
        assert len(attempted) == len(mistakes)
    finally:
        grammars.close()


def test_a_grammar_may_name_tokens_beyond_the_bytes(processes):
    """The trial knows no others, and leaves them to the service."""
    letters = [bytes([65 + number % 26]) * (1 + number // 26) for number in range(400)]
    vocabulary = replace(LETTERS, tokens=[*LETTERS.tokens, *letters])
    grammars = Grammars(vocabulary, trials=processes())
    try:
        assert bitmask_of(grammars.mask(lark_grammar('start: <[300]> "x"'))).any()
    finally:
        grammars.close()


def test_what_took_long_to_try_takes_a_core_where_it_is_compiled(monkeypatch):
    """Quick ones take none: the models would split each step anew."""
    cores, taken, clock = Cores(), [], Clock()
    monkeypatch.setattr(grammar_module, "time", SimpleNamespace(perf_counter=clock))

    class Trials(NoTrials):
        def check(self, grammar, seconds):
            clock.advance(2 * SLOW_SECONDS if "slow" in grammar else SLOW_SECONDS / 2)

    class Own(Grammars):
        def _attempted(self, grammar):
            with cores.step(1000, "a") as left:
                taken.append(left)
            return super()._attempted(grammar)

    grammars = Own(LETTERS, trials=Trials(), cores=cores)
    for text in ("slow", "quick"):
        grammars.mask(lark_grammar(f'start: "{text}"'))
    grammars.close()
    assert taken == [999, 1000]


@pytest.mark.parametrize("script", [HANGS, DIES])
def test_what_does_not_end_is_killed(processes, script):
    """Its request is refused; another process takes its place."""
    trials = processes(script)
    (pid,) = trials.pids
    with pytest.raises(ValidationError, match="is too complex"):
        trials.check(OBJECT, 0.1)
    assert not alive(pid)
    assert len(trials.pids) == 1
    assert trials.pids != [pid]


def test_the_next_grammar_is_tried_as_ever(processes):
    """And compiled: no thread of the service was lost."""
    trials = processes(SOMETIMES)
    grammars = Grammars(LETTERS, trials=trials)
    try:
        for _ in range(3):  # more often than there are threads that compile
            trials.check(OBJECT, PATIENCE)
            grammars._seconds = 0.1
            with pytest.raises((ValidationError, Overloaded)):  # which one, the machine's load decides
                grammars.mask(lark_grammar('start: "hang"'))
            grammars._seconds = PATIENCE
        assert bitmask_of(grammars.mask(OBJECT)).any()
    finally:
        grammars.close()


def test_a_process_that_was_killed_refuses_nothing(processes):
    """Its end has nothing to do with the grammar that comes next."""
    trials = processes()
    trials.check(OBJECT, PATIENCE)
    (pid,) = trials.pids
    os.kill(pid, 9)
    trials.check(OBJECT, PATIENCE)
    assert trials.pids != [pid]


def test_one_that_hangs_leaves_the_other_process(processes):
    """A client whose grammar does not end holds up nobody else's: both are tried at once."""
    now, hangs, refused = [0.0], threading.Event(), []

    def clock():
        read = now[0]
        if threading.current_thread() is thread:
            hangs.set()
        return read

    def hang():
        try:
            trials.check(lark_grammar('start: "hang"'), 1.0)
        except ValidationError as error:
            refused.append(error)

    thread = threading.Thread(target=hang, daemon=True)
    trials = processes(SOMETIMES, count=2, clock=clock)
    for _ in range(
        2
    ):  # each process is ready, so that the first look at the clock is the one that the second runs from
        trials.check(OBJECT, PATIENCE)
    thread.start()
    assert hangs.wait(PATIENCE)
    trials.check(OBJECT, PATIENCE)
    assert refused == []
    now[0] = 1.0
    thread.join(PATIENCE)
    assert len(refused) == 1


def test_a_trial_takes_a_core_from_the_models(processes):
    """While it is computed, and however that ends."""
    looks, cores = [], Cores()

    def clock():
        with cores.step(4, "a") as taken:
            looks.append(taken)
        return float(len(looks))  # a second at every look

    with pytest.raises(ValidationError):
        processes(HANGS, clock=clock, cores=cores).check(OBJECT, 3.0)
    assert 3 in looks
    processes(cores=cores).check(OBJECT, PATIENCE)
    with cores.step(4, "a") as taken:
        assert taken == 4


def test_a_full_pool_refuses(processes):
    """While others' grammars take the time, soon is better than now."""
    trials = processes(count=0)
    with pytest.raises(Overloaded):
        trials.check(OBJECT, 0.01)


def test_a_stop_ends_the_processes(processes):
    """No other one is started afterwards."""
    trials = processes(count=2)
    pids = trials.pids
    trials.stop()
    assert trials.pids == []
    assert not any(map(alive, pids))
    for _ in range(3):
        trials.check(OBJECT, PATIENCE)
    assert trials.pids == []


def test_without_a_process_grammars_are_compiled_all_the_same(tmp_path):
    """Where the machine has no room for one, which the log says."""
    trials = GrammarProcesses(1, [str(tmp_path / "missing"), "{socket}"])
    trials.start()
    trials.check(OBJECT, PATIENCE)
    assert trials.pids == []


@pytest.mark.linux
def test_a_process_is_small(processes):
    """A fraction of what it may take, which the plan of memory counts."""
    trials = processes()
    trials.check(OBJECT, PATIENCE)
    with open(f"/proc/{trials.pids[0]}/status", encoding="ascii") as status:
        figures = dict(line.split(":", 1) for line in status)
    assert int(figures["VmPeak"].split()[0]) * 1024 < MEMORY_BYTES / 2


def test_a_refusal_knows_its_place():
    """As the library names it, whether the grammar was tried before or not."""
    grammar = lark_grammar("start: one\none: /(/")
    try_grammar(grammar)
    grammars = Grammars(LETTERS)
    with pytest.raises(GrammarRefused) as refused:
        grammars.mask(grammar)
    assert refused.value.place == fault(grammar) is not None
    grammars.close()


def chain(rules):
    """Return a grammar of so many rules, each of which is the next one."""
    return lark_grammar("start: r0\n" + "".join(f"r{n}: r{n + 1}\n" for n in range(rules)) + f'r{rules}: "a"\n')


def test_a_chain_of_rules_that_passes_its_trial_overflows_no_thread(processes):
    """The library calls itself for each rule: with as much stack in both, one near the limit killed the service."""
    trials, queue = processes(), CompileQueue(threads=1)
    compiled = []
    try:
        for rules in (900, 1200, 1300, 1400, 1600, 2672, 2673, 5000):
            try:
                trials.check(chain(rules), PATIENCE)
            except (ValidationError, Overloaded):
                continue
            done = queue.submit("c", lambda rules=rules: LLMatcher(byte_tokenizer(), chain(rules), log_level=0))
            compiled.append((rules, done.result(PATIENCE).is_error()))
    finally:
        queue.close()
    assert (900, False) in compiled
    assert max(compiled)[0] < 2672
