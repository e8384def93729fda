"""The engine on its real thread with every fault injected: no request hangs, states are right, the next one is served.

The runner is scripted where a fault is wanted, and the real one over a tiny checkpoint where answers count.
"""

import gc
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import torch

from engine.admission import prefix_keys
from engine.cores import Cores
from engine.engine_core import EngineCore
from engine.engine_loop import DEATHS_WINDOW
from engine.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineDead,
    ModelError,
    NotReady,
    Overloaded,
    RequestAborted,
    StartError,
    ValidationError,
)
from engine.llm_engine import HOPELESS_STALL, LLMEngine
from engine.loading.loader import load_model
from engine.loading.memory_budget import PREFIX_CONTEXTS
from engine.model.choice import Choice
from engine.text.prompt import PreparedPrompt
from engine.types import (
    ChatPrompt,
    EngineConfig,
    GenerationRequest,
    Progress,
    SamplingParams,
    Status,
    TextPrompt,
    TokensPrompt,
)
from tests.checkpoints import text_spec, vision_spec
from tests.engine.driver import chat
from tests.engine.scripted_runner import ScriptedRunner
from tests.engine.sequences import sequence
from tests.fakes import PATIENCE, Clock
from tests.timing import NewThreads

TOKEN = 200  # a token with a text in the tiny checkpoints


class Death(BaseException):
    """An error that no step is expected to raise."""


class Gate:
    """Holds the engine's thread in a step: `wait_until_held`, then `open` for good."""

    def __init__(self):
        self._held, self._opened = threading.Event(), threading.Event()

    def __call__(self, plan):
        self._held.set()
        assert self._opened.wait(PATIENCE)

    def wait_until_held(self):
        assert self._held.wait(PATIENCE)

    def open(self):
        self._opened.set()


def ask(text="Привет", max_tokens=8, client="", request_id="r", timeout=PATIENCE, wait=PATIENCE, **sampling):
    """Return a greedy request."""
    params = SamplingParams(max_tokens, **({"temperature": 0.0} | sampling))
    return GenerationRequest(request_id, chat(text), params, client, queue_timeout=wait, timeout=timeout)


def wait_until(condition):
    """Wait until it holds; fail the test if it does not in time."""
    pause, until = threading.Event(), time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came to that"
        pause.wait(0.002)


@pytest.fixture
def runner():
    """The scripted runner of this test's engine."""
    runner = ScriptedRunner()
    runner.token = TOKEN
    return runner


@pytest.fixture
def start(text_model, text_folder, runner):
    """Start an engine over the scripted runner; it is stopped in the end."""
    started = []

    def make(clock=time.monotonic, load=None, **limits):
        config = EngineConfig(**({"max_num_seqs": 4, "max_waiting": 16, "cpu_threads": 1} | limits))
        load = load or (lambda spec, report, limit: text_model)
        engine = LLMEngine(text_spec(text_folder), config, load, lambda *args, **kwargs: runner, clock)
        started.append(engine)
        engine.start()
        return engine

    yield make
    for engine in started:
        engine.stop(0.0)


@contextmanager
def held(runner):
    """Hold the engine's thread at its next step, and release it in the end."""
    gate = Gate()
    runner.on_run = gate
    try:
        yield gate
    finally:
        runner.on_run = lambda plan: None
        gate.open()


def dying(error, times=1):
    """Return a hook that raises in a step so many times."""
    left = [times]

    def on_run(plan):
        if left[0]:
            left[0] -= 1
            raise error

    return on_run


# --- answers ---


def test_an_engine_answers_and_says_what_it_is(start):
    """READY after start; an answer with its figures; counters that grew by it."""
    engine = start()
    assert engine.state().status is Status.READY
    completion = engine.submit(ask(max_tokens=5)).result()
    assert (completion.output_tokens, completion.finish_reason) == (5, "length")
    assert completion.text
    wait_until(lambda: engine.stats().num_requests_running == 0)
    stats = engine.stats()
    assert (stats.generation_tokens_total, stats.prompt_tokens_total) == (5, completion.prompt_tokens)
    assert (stats.max_num_seqs, stats.max_waiting, stats.steps_total) == (4, 16, 5)
    assert stats.kv_cache_tokens_capacity == (4 + PREFIX_CONTEXTS) * engine.info.max_model_len
    assert stats.kv_cache_tokens_used == 0
    assert engine.info.generation_defaults["top_k"] == 20
    assert engine.info.uses_tools


@pytest.mark.parametrize("waiting", [0, 1])
def test_long_prompts_that_find_slots_are_not_too_much_text(text_folder, waiting):
    """However few may wait beside them: every one waits for a moment."""
    engine = LLMEngine(text_spec(text_folder), EngineConfig(max_num_seqs=8, max_waiting=waiting, max_model_len=128))
    for number in range(4):
        engine._room.admit(str(number))
        engine._room.put(sequence(str(number), tokens=60))
    assert len(engine._room) == 4


def test_a_stream_joined_is_the_answer_of_one_that_does_not_stream(text_folder, monkeypatch):
    """Through the real runner, many at once, half of them streamed."""
    monkeypatch.setattr("engine.engine_core.STREAM_INTERVAL", 0.0)
    engine = LLMEngine(text_spec(text_folder), EngineConfig(max_num_seqs=8, cpu_threads=1))
    engine.start()
    generations = [engine.submit(ask(f"Диван {number % 3}", 12)) for number in range(6)]
    texts = []
    for number, generation in enumerate(generations):
        if number < 3:
            texts.append("".join(piece.text for piece in generation.pieces()))
        else:
            texts.append(generation.result().text)
    engine.stop(PATIENCE)
    assert texts[:3] == texts[3:]
    assert all(texts)


@pytest.mark.parametrize(
    ("prompt", "sampling", "error", "field"),
    [
        (chat("Hello " * 2000), {}, ContextTooLong, "messages"),
        (chat("Hello"), {"max_tokens": 1020}, ContextTooLong, "max_tokens"),
        (chat("Hello"), {"logit_bias": {10**6: 1.0}}, ValidationError, "logit_bias"),
        (TextPrompt(""), {}, ValidationError, "prompt"),
        (ChatPrompt(({"role": "nobody", "content": "x"},)), {}, ValidationError, "messages"),
    ],
)
def test_bad_input_is_refused_at_once_and_frees_its_capacity(start, prompt, sampling, error, field):
    """The field at fault is named; after many of them the whole capacity is free."""
    engine = start(max_num_seqs=1, max_waiting=0)
    for _ in range(3):
        with pytest.raises(error) as refused:
            engine.submit(GenerationRequest("r", prompt, SamplingParams(**({"max_tokens": 8} | sampling))))
        assert refused.value.param == field
    assert engine.submit(ask()).result().output_tokens == 8


def test_prompt_and_answer_may_fill_the_context(start):
    """Exactly fitting is taken, one token more is refused with the arithmetic."""
    engine = start()

    def fill(prompt_tokens, max_tokens):
        prompt = TokensPrompt((5,) * prompt_tokens)
        return engine.submit(GenerationRequest("r", prompt, SamplingParams(max_tokens), timeout=PATIENCE)).result()

    assert fill(1000, 24).output_tokens == 24
    with pytest.raises(ContextTooLong, match=r"1000 tokens.*25 tokens.*1024") as refused:
        fill(1000, 25)
    assert refused.value.param == "max_tokens"
    with pytest.raises(ContextTooLong) as refused:
        fill(1024, 1)
    assert refused.value.param == "prompt"


def test_a_bound_gives_way_to_what_the_prompt_leaves(start):
    """The answer takes what is left; only a prompt that leaves nothing is refused."""
    engine = start()

    def fill(prompt_tokens):
        sampling = SamplingParams(2000, ignore_eos=True, fit_context=True)
        return engine.submit(GenerationRequest("r", TokensPrompt((5,) * prompt_tokens), sampling, timeout=PATIENCE))

    for prompt_tokens in (1000, 1023):
        generation = fill(prompt_tokens)
        assert generation.max_tokens == 1024 - prompt_tokens
        completion = generation.result()
        assert (completion.output_tokens, completion.finish_reason) == (1024 - prompt_tokens, "length")
    for prompt_tokens in (1024, 1025):
        with pytest.raises(ContextTooLong) as refused:
            fill(prompt_tokens)
        assert (refused.value.max_model_len, refused.value.prompt_tokens) == (1024, prompt_tokens)


def test_the_operators_context_limit_holds(text_folder):
    """MAX_MODEL_LEN under the checkpoint's own is the limit, and is shown before and after the load."""
    engine = LLMEngine(text_spec(text_folder), EngineConfig(max_num_seqs=1, max_model_len=64, cpu_threads=1))
    assert engine.info.max_model_len == 64
    engine.start()
    try:
        assert engine.info.max_model_len == 64
        with pytest.raises(ContextTooLong):
            engine.submit(ask(max_tokens=60))
    finally:
        engine.stop(0.0)


@pytest.mark.parametrize("prompt", [TextPrompt("Красный диван"), TokensPrompt((5, 6, 7))])
def test_plain_text_and_token_ids_are_continued(start, prompt):
    """Prompts of every kind are answered."""
    request = GenerationRequest("r", prompt, SamplingParams(8), timeout=PATIENCE)
    assert start().submit(request).result().output_tokens == 8


def test_overload_is_reported_before_anything_is_prepared(start, runner):
    """At capacity a request is refused with Retry-After, and its prompt is not read."""
    engine = start(max_num_seqs=1, max_waiting=1)
    with held(runner) as gate:
        generations = [engine.submit(ask(client=client)) for client in "ab"]
        gate.wait_until_held()
        with pytest.raises(Overloaded) as refused:
            engine.submit(GenerationRequest("r", None, SamplingParams(1), "c"))
        assert refused.value.retry_after >= 1
    assert [generation.result().output_tokens for generation in generations] == [8, 8]


def test_a_greedy_client_leaves_room_for_others(start, runner):
    """It is refused while a newcomer finds room; whoever was admitted is answered."""
    engine = start(max_num_seqs=1, max_waiting=3)
    with held(runner) as gate:
        admitted = [engine.submit(ask(client="greedy"))]
        gate.wait_until_held()
        admitted.append(engine.submit(ask(client="greedy")))
        with pytest.raises(Overloaded):
            engine.submit(ask(client="greedy"))
        admitted += [engine.submit(ask(client=client)) for client in ("other", "third")]
    assert [generation.result().output_tokens for generation in admitted] == [8] * 4


def test_a_waiting_answer_has_a_queue_position_and_a_running_one_has_none(start, runner):
    """By the order in which they start: a client's second request comes after another client's first."""
    engine = start(max_num_seqs=1, max_waiting=4)
    with held(runner) as gate:
        running = engine.submit(ask(client="a"))
        gate.wait_until_held()
        second, third, other = (engine.submit(ask(client=client)) for client in "aab")
        positions = [generation.queue_position() for generation in (running, other, second, third)]
        assert [position and position.ahead for position in positions] == [None, 0, 1, 2]
    assert third.result().output_tokens == 8
    assert third.queue_position() is None


# --- batches ---


def test_a_batch_waits_for_a_slot_without_a_thread(start, runner):
    """It takes the free slots, is woken by the next end, and does not fill the queue."""
    engine, woken = start(max_num_seqs=2, max_waiting=4), threading.Event()
    with held(runner) as gate:
        texts = [engine.submit_when_free(ask(), alone, woken.set) for alone in (True, False)]
        gate.wait_until_held()
        assert engine.submit_when_free(ask(), False, woken.set) is None
        assert engine.stats().num_requests_running + engine.stats().num_requests_waiting == 2
        assert not woken.is_set()
    assert [text.result().output_tokens for text in texts] == [8, 8]
    assert woken.wait(PATIENCE)
    assert engine.submit_when_free(ask(), False, woken.set).result().output_tokens == 8
    engine.stop_waiting(woken.set)


def test_a_batch_waits_where_too_much_text_waits(start, runner):
    """The queue's bound on tokens does not refuse a batch; its capacity is free meanwhile."""
    engine, woken = start(max_num_seqs=1, max_waiting=4), threading.Event()
    engine._room._max_tokens = 1
    with held(runner) as gate:
        running = engine.submit(ask())
        gate.wait_until_held()
        waiting = engine.submit(ask())
        assert engine.submit_when_free(ask(), True, woken.set) is None
        assert engine._room.num_in_flight() == 2
    assert [one.result().output_tokens for one in (running, waiting)] == [8, 8]
    assert woken.wait(PATIENCE)
    assert engine.submit_when_free(ask(), True, woken.set).result().output_tokens == 8


def test_a_batch_is_refused_as_any_request_is(start):
    """Bad input gives its capacity back; a model that is not ready says so."""
    engine = start(max_num_seqs=1, max_waiting=0)
    for _ in range(3):
        with pytest.raises(ContextTooLong):
            engine.submit_when_free(ask(max_tokens=1020), True, lambda: None)
    engine.drain()
    with pytest.raises(NotReady):
        engine.submit_when_free(ask(), True, lambda: None)
    assert engine._room.num_in_flight() == 0


def test_the_most_that_one_client_may_have_follows_the_settings(start):
    """What can run, and half of what can wait."""
    assert start(max_num_seqs=2, max_waiting=5).most_at_once() == 4


def test_a_refusal_is_foretold_with_its_reason(start):
    """None while a request would be admitted; while draining, what `submit` would raise."""
    engine = start(max_num_seqs=1, max_waiting=0)
    assert engine.would_refuse("") is None
    engine.drain()
    assert isinstance(engine.would_refuse(""), NotReady)
    with pytest.raises(NotReady, match=str(engine.would_refuse(""))):
        engine.submit(ask())


# --- ends ---


@pytest.mark.parametrize("stage", ["waiting", "running"])
def test_an_abort_ends_a_request_wherever_it_is(start, runner, stage):
    """From any thread; its capacity is free afterwards and the other continues."""
    engine = start(max_num_seqs=1)
    with held(runner) as gate:
        first = engine.submit(ask(max_tokens=50))
        gate.wait_until_held()
        second = engine.submit(ask(max_tokens=50))
        (second if stage == "waiting" else first).abort()
    with pytest.raises(RequestAborted):
        (second if stage == "waiting" else first).result()
    assert (first if stage == "waiting" else second).result().output_tokens == 50
    wait_until(lambda: engine._room.num_in_flight() == 0)


def test_an_abort_takes_no_lock_of_the_waiting_room():
    """on_abort is called with the generation's lock held, so it must not wait for another."""
    engine = LLMEngine(text_spec("nowhere"), EngineConfig())
    with engine._room._changed:
        engine._notify_abort()
    assert engine._room._abort_pending


def test_a_request_meets_its_deadlines(start, runner):
    """Waiting too long and taking too long in total each end with a typed error, and the engine continues."""
    clock, gate = Clock(), Gate()
    engine = start(clock, max_num_seqs=1)
    runner.on_run = gate
    long = engine.submit(ask(max_tokens=900, timeout=10.0))
    gate.wait_until_held()
    waiting = engine.submit(ask(wait=5.0))
    runner.on_run = lambda plan: clock.advance(0.1)
    gate.open()
    with pytest.raises(DeadlineExceeded, match="turn"):
        waiting.result()
    with pytest.raises(DeadlineExceeded, match="finish"):
        long.result()
    assert engine.submit(ask()).result().output_tokens == 8


def test_drain_finishes_the_admitted_and_refuses_the_new(start, runner):
    """Running and waiting requests get their answers."""
    engine = start(max_num_seqs=1)
    with held(runner) as gate:
        generations = [engine.submit(ask()) for _ in range(3)]
        gate.wait_until_held()
        engine.drain()
        assert engine.state().status is Status.DRAINING
        with pytest.raises(NotReady):
            engine.submit(ask())
    assert [generation.result().output_tokens for generation in generations] == [8] * 3


def test_stop_waits_for_the_admitted(start):
    """Within its time all requests finish, and the thread ends."""
    engine = start(max_num_seqs=2)
    generations = [engine.submit(ask(max_tokens=100)) for _ in range(5)]
    engine.stop(PATIENCE)
    assert [generation.result().output_tokens for generation in generations] == [100] * 5
    assert not engine._loop._thread.is_alive()


def test_stop_aborts_what_is_left_after_its_time(start, runner):
    """Running and waiting requests end as NotReady: their clients are there, and may ask again."""
    engine = start(max_num_seqs=1)
    runner.on_run = lambda plan: threading.Event().wait(0.01)
    generations = [engine.submit(ask(max_tokens=900)) for _ in range(3)]
    engine.stop(0.05)
    for generation in generations:
        with pytest.raises(NotReady):
            generation.result()
    with pytest.raises(NotReady):
        engine.submit(ask())


def test_stop_does_not_wait_for_a_step_that_does_not_come_back(start, runner, monkeypatch):
    """The stopping thread fails its requests and does not wait for the engine's thread."""
    monkeypatch.setattr("engine.llm_engine.END_GRACE", 0.05)
    engine = start(max_num_seqs=1)
    with held(runner) as gate:
        generations = [engine.submit(ask()) for _ in range(2)]
        gate.wait_until_held()
        engine.stop(0.0)
        for generation in generations:
            with pytest.raises(NotReady):
                generation.result()
    engine._loop._thread.join(PATIENCE)
    assert not engine._loop._thread.is_alive()


def test_stop_before_and_after_a_start_is_harmless(text_folder, start):
    """There is nothing to wait for."""
    LLMEngine(text_spec(text_folder), EngineConfig()).stop(1.0)
    engine = start()
    engine.stop(1.0)
    engine.stop(1.0)
    assert engine.state().status is Status.DRAINING


@pytest.mark.parametrize("end", ["stop", "death"])
def test_a_request_that_races_with_the_end_never_hangs(start, runner, monkeypatch, end):
    """Many threads submit while the engine stops or is lost: each gets an answer or a typed refusal, none waits."""
    monkeypatch.setattr("engine.engine_loop.MAX_RESTARTS", 0)
    engine = start(max_num_seqs=2, max_waiting=30)
    outcomes, go = [], threading.Barrier(9)

    def client(name):
        go.wait(PATIENCE)
        for _ in range(20):
            try:
                outcomes.append(type(engine.submit(ask(client=name, max_tokens=2)).result()))
            except (NotReady, RequestAborted, EngineDead, Overloaded) as error:
                outcomes.append(type(error))

    threads = [threading.Thread(target=client, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    go.wait(PATIENCE)
    if end == "stop":
        engine.stop(0.0)
    else:
        runner.on_run = dying(Death())
    for thread in threads:
        thread.join(PATIENCE / 2)
    assert not any(thread.is_alive() for thread in threads)
    assert len(outcomes) == 160
    assert DeadlineExceeded not in outcomes


# --- faults ---


@pytest.mark.parametrize(
    ("error", "words"),
    [(ValueError("a library's text"), "failed on this request"), (torch.OutOfMemoryError("CUDA"), "out of memory")],
)
def test_a_sequence_that_raises_fails_alone_on_the_real_thread(start, runner, error, words):
    """Among many: a typed error without the library's text, and the loop continues."""
    engine = start()

    def on_run(plan):
        if any(submitted.request.request_id == "bad" for submitted, _ in plan.rows):
            raise error

    runner.on_run = on_run
    generations = [engine.submit(ask(request_id=name)) for name in ("a", "bad", "b", "c")]
    with pytest.raises(ModelError, match=words):
        generations[1].result()
    assert [generations[i].result().output_tokens for i in (0, 2, 3)] == [8] * 3
    assert engine.stats().engine_restarts_total == 0


def test_logits_that_are_not_finite_fail_one_request_and_are_counted(start, runner):
    """The neighbours' answers are whole."""
    engine = start()
    runner.choose = lambda submitted: Choice(TOKEN, submitted.request.request_id != "bad")
    generations = [engine.submit(ask(request_id=name)) for name in ("a", "bad", "b")]
    with pytest.raises(ModelError, match="NaN"):
        generations[1].result()
    assert [generations[i].result().output_tokens for i in (0, 2)] == [8] * 2
    assert engine.stats().nan_logits_total == 1


def test_a_dead_loop_fails_all_requests_at_once_and_serves_again(start, runner):
    """Running and waiting requests end as EngineDead; the next one is answered, from a clean cache."""
    engine = start(max_num_seqs=1)
    gate, die = Gate(), dying(Death())

    def on_run(plan):
        gate(plan)
        die(plan)

    runner.on_run = on_run
    generations = [engine.submit(ask()) for _ in range(3)]
    gate.wait_until_held()
    gate.open()
    for generation in generations:
        with pytest.raises(EngineDead):
            generation.result()
    assert engine.submit(ask()).result().output_tokens == 8
    assert engine.state().status is Status.READY
    assert engine.stats().engine_restarts_total == 1
    assert runner.zeroed == [1, 2]  # the blocks of the one that ran
    assert runner.discarded == 1
    assert engine._room.num_in_flight() == 0


def test_repeated_deaths_are_final(start, runner, monkeypatch):
    """After more than MAX_RESTARTS deaths only a new process can serve, and all requests fail at once."""
    monkeypatch.setattr("engine.engine_loop.MAX_RESTARTS", 2)
    engine = start()
    runner.on_run = dying(Death(), times=3)
    for _ in range(2):
        with pytest.raises(EngineDead):
            engine.submit(ask()).result()
        assert not engine.state().restart_needed
    with pytest.raises(EngineDead):
        engine.submit(ask()).result()
    state = engine.state()
    assert (state.status, state.restart_needed) == (Status.DEAD, True)
    with pytest.raises(NotReady):
        engine.submit(ask())
    engine._loop._thread.join(PATIENCE)
    assert not engine._loop._thread.is_alive()


def test_deaths_far_apart_are_not_final(start, runner, monkeypatch):
    """Only those within a window count."""
    clock = Clock()
    monkeypatch.setattr("engine.engine_loop.MAX_RESTARTS", 1)
    engine = start(clock)
    for _ in range(4):
        runner.on_run = dying(Death())
        with pytest.raises(EngineDead):
            engine.submit(ask(timeout=1e9, wait=1e9)).result()
        clock.advance(DEATHS_WINDOW + 1)
    wait_until(lambda: engine.stats().engine_restarts_total == 4)
    assert not engine.state().restart_needed


@pytest.mark.parametrize("where", ["run", "not_finite", "zero"])
def test_a_poisoned_device_is_final_at_once(start, runner, where):
    """Wherever a CUDA error shows: all requests fail, and only a new process can serve."""
    engine, gate = start(), Gate()
    error = RuntimeError("CUDA error: an illegal memory access was encountered")

    def fail(*_):
        raise error

    runner.on_run = gate  # until both requests are in
    if where == "run":
        runner.on_run = lambda plan: (gate(plan), fail())
    else:
        runner.choose = lambda submitted: Choice(TOKEN, False)
        setattr(runner, where, fail)
    generations = [engine.submit(ask(request_id=str(number))) for number in range(2)]
    gate.open()
    for generation in generations:
        with pytest.raises(ModelError):
            generation.result()
    wait_until(lambda: engine.state().status is Status.DEAD)
    assert engine.state().restart_needed
    with pytest.raises(NotReady):
        engine.submit(ask())


def test_a_cache_that_cannot_be_cleared_is_final(start, runner):
    """The loop does not restart on a cache of unknown content."""
    engine = start()
    runner.on_run = dying(Death())

    def fail():
        raise RuntimeError("no")

    runner.discard = fail
    with pytest.raises(EngineDead):
        engine.submit(ask()).result()
    wait_until(lambda: engine.state().status is Status.DEAD)


def test_a_stall_is_reported_until_it_ends(start, runner):
    """A step that does not return while work is pending is STALLED, later hopeless; afterwards READY again."""
    clock = Clock()
    engine = start(clock, stall_seconds=20.0)
    with held(runner) as gate:
        generation = engine.submit(ask(timeout=1e9, wait=1e9))
        gate.wait_until_held()
        clock.advance(19)
        assert engine.state().status is Status.READY
        clock.advance(2)
        state = engine.state()
        assert (state.status, state.restart_needed) == (Status.STALLED, False)
        with pytest.raises(NotReady):
            engine.submit(ask())
        clock.advance(20.0 * HOPELESS_STALL)
        assert engine.state().restart_needed
    assert generation.result().output_tokens == 8
    assert engine.state().status is Status.READY


def test_an_idle_engine_is_never_stalled(start):
    """Without work it cannot be late."""
    clock = Clock()
    engine = start(clock)
    engine.submit(ask(timeout=1e9, wait=1e9)).result()
    wait_until(lambda: engine.stats().num_requests_running == 0)
    clock.advance(1e6)
    assert engine.state().status is Status.READY


def test_inconsistent_accounting_restarts_an_idle_engine(start):
    """A request in flight without an owner is found when there is nothing to do; the restart clears it."""
    engine = start()
    engine.submit(ask()).result()
    with engine._room._changed:
        engine._room._in_flight.by_client["ghost"] += 1
    wait_until(lambda: engine.stats().engine_restarts_total == 1)
    assert engine.submit(ask()).result().output_tokens == 8
    assert engine._room.num_in_flight() == 0


def test_an_idle_engine_checks_its_accounting_once(start, monkeypatch):
    """After each time that it has worked, however long it is idle then."""
    checks, beats = [], set()
    monkeypatch.setattr("engine.engine_loop.IDLE_BEAT", 0.01)
    monkeypatch.setattr(EngineCore, "check_idle", lambda core: checks.append(len(core.scheduler.running)))
    engine = start(time.monotonic)

    def has_been_idle(before):
        beats.add(engine._loop.beat)
        return len(checks) > before and len(beats) > 5

    for before in (0, 1):
        engine.submit(ask()).result()
        beats.clear()
        wait_until(partial(has_been_idle, before))
    assert checks in ([0, 0], [0, 0, 0])  # the first may be from before the first request


def test_an_engine_that_has_just_become_idle_does_not_check_its_accounting(start, monkeypatch):
    """That takes milliseconds, and where requests come one after the other the next one would wait for it."""
    checks = []
    monkeypatch.setattr("engine.engine_loop.IDLE_BEAT", PATIENCE)
    monkeypatch.setattr(EngineCore, "check_idle", checks.append)
    engine = start()
    for _ in range(3):
        engine.submit(ask()).result()
        wait_until(lambda: engine.stats().num_requests_running == 0)
    assert not checks


# --- start ---


def test_a_load_that_fails_is_raised_by_start(start):
    """The state says so, with the sentence for the operator left to the caller."""

    def load(spec, report, limit):
        report(Progress("half", 1, 2))
        raise StartError("VIBE_MODEL_DIR: no")

    with pytest.raises(StartError, match="VIBE_MODEL_DIR"):
        start(load=load)


@pytest.mark.parametrize(("jobs", "threads"), [(0, 3), (1, 2), (9, 1)])
def test_a_load_takes_the_cores_that_are_left(start, text_model, monkeypatch, jobs, threads):
    """A successor leaves one to the service that it will replace."""
    cores, seen = Cores(), []
    monkeypatch.setattr("engine.llm_engine.CORES", cores)

    def load(spec, report, limit):
        seen.append(torch.get_num_threads())
        return text_model

    with ExitStack() as running:
        for _ in range(jobs):
            running.enter_context(cores.job())
        start(load=load, cpu_threads=3)
    assert seen == [threads]


def test_progress_is_shown_while_loading(start, text_model, text_folder, runner):
    """LOADING with the loader's stage and the bytes of an earlier one; no request is taken; a failed start is DEAD."""
    gate, seen = Gate(), []

    def load(spec, report, limit):
        report(Progress("reading", 1, 2))
        report(Progress("checking"))
        gate(None)
        raise StartError("no")

    engine = LLMEngine(text_spec(text_folder), EngineConfig(), load, lambda *args, **kwargs: runner)
    starter = threading.Thread(target=lambda: seen.append(pytest.raises(StartError, engine.start)))
    starter.start()
    gate.wait_until_held()
    assert engine.state().progress == Progress("checking", 1, 2)
    with pytest.raises(NotReady):
        engine.submit(ask())
    gate.open()
    starter.join(PATIENCE)
    assert engine.state().restart_needed
    engine.drain()
    assert engine.state().status is Status.DEAD


def test_logits_that_are_not_finite_stop_the_start(start, runner, text_model, text_folder):
    """Before any request is served; the setting that corrects half precision is named."""
    runner.first_logits = torch.tensor([[float("nan")]])
    spec = vision_spec(text_folder, vision=False, dtype="float16", dtype_setting="VISION_DTYPE")
    engine = LLMEngine(spec, EngineConfig(), lambda *args: text_model, lambda *args, **kwargs: runner)
    with pytest.raises(StartError, match="VISION_DTYPE=bfloat16"):
        engine.start()
    assert engine.state().status is Status.DEAD


def test_a_model_drained_while_it_loads_takes_no_request(start, text_model, text_folder, runner):
    """The drain was requested before the start was complete."""
    engine = LLMEngine(text_spec(text_folder), EngineConfig(), lambda *args: text_model, lambda *args, **kw: runner)
    engine.drain()
    engine.start()
    assert engine.state().status is Status.DRAINING
    engine.stop(0.0)


# --- flat ---


def test_nothing_grows_over_many_requests(start, runner):
    """Threads, capacity, slots and references are the same after hundreds of requests of every end."""
    engine = start(max_num_seqs=4, max_waiting=60)
    runner.choose = lambda submitted: Choice(TOKEN, submitted.request.request_id != "bad")
    engine.submit(ask()).result()
    threads, held_ones = NewThreads(), []
    for number in range(40):
        generations = [engine.submit(ask(request_id=name, max_tokens=3)) for name in ("a", "bad", "left", "b")]
        if number % 2:
            generations[2].abort()
        for generation in generations:
            held_ones.append(weakref.ref(generation))
            try:
                generation.result()
            except (ModelError, RequestAborted):
                continue
    del generation, generations
    wait_until(lambda: engine.stats().num_requests_running == 0 and engine._room.num_in_flight() == 0)
    gc.collect()
    assert len(threads) == 0
    assert [ref for ref in held_ones if ref() is not None] == []
    assert engine._loop.core.scheduler.check() is None


def test_a_poisoned_block_fails_its_request_and_no_neighbour(text_folder):
    """With the real runner: NaN in one sequence's block ends that request; others answer as they do alone."""
    loaded = load_model(text_spec(text_folder), lambda progress: None)
    engine = LLMEngine(text_spec(text_folder), EngineConfig(max_num_seqs=4, cpu_threads=1), lambda *args: loaded)
    engine.start()
    alone = engine.submit(ask("Синий диван", 40)).result().text
    runner, run = engine._runner, engine._runner.run

    def poison(plan):
        for submitted, _ in plan.rows:
            if submitted.request.request_id == "bad" and submitted.num_output >= 3:
                runner._cache.layers[0][submitted.blocks[-1], 1] = float("nan")
        return run(plan)

    runner.run = poison
    for _ in range(3):
        generations = [engine.submit(ask("Синий диван", 40, request_id=name)) for name in ("a", "bad", "b")]
        with pytest.raises(ModelError):
            generations[1].result()
        assert [generations[i].result().text for i in (0, 2)] == [alone, alone]
    assert engine.stats().nan_logits_total == 3
    assert torch.isfinite(runner._cache.all).all()
    engine.stop(PATIENCE)


# --- images' keys ---


class Images:
    """Two prepared images, known by their hashes."""

    hashes = ("first", "second")


def test_an_images_tokens_are_keyed_by_its_hash():
    """Equal keys mean an equal image at an equal offset; text is keyed by its ids."""
    ids = [1, 9, 9, 2, 9, 3]
    keys = prefix_keys(PreparedPrompt(ids, Images()), 9)
    assert keys == [1, ("first", 0), ("first", 1), 2, ("second", 0), 3]
    assert prefix_keys(PreparedPrompt(ids), None) == ids


def test_a_card_computes_its_largest_steps_before_the_first_request(vision_folder):
    """With the largest image in one of them; requests are answered as before."""
    engine = LLMEngine(vision_spec(vision_folder), EngineConfig(max_num_seqs=2, max_waiting=2, cpu_threads=1))
    engine.start()
    try:
        images = []
        tower = engine._runner._images._tower
        engine._runner._images._tower = lambda pixels, grids: images.append(grids.tolist()) or tower(pixels, grids)
        engine._compute_largest_steps(engine._loaded)
        engine._runner._images._tower = tower
        (grids,) = images
        assert len(grids) == 1
        assert engine.submit(ask(max_tokens=2)).result().output_tokens == 2
    finally:
        engine.stop(0.0)


def test_a_largest_step_that_fails_ends_the_start_with_the_setting_to_lower(start, runner):
    """It would fail for a client otherwise."""
    engine = start()
    runner.on_run = lambda plan: (_ for _ in ()).throw(MemoryError)
    with pytest.raises(StartError, match=r"avibe failed .* \(MemoryError\): lower MAX_NUM_BATCHED_TOKENS"):
        engine._compute_largest_steps(engine._loaded)
