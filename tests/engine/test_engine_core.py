"""The engine's core over a scripted runner: a sequence fails alone, and the accounting is right afterwards."""

import gc
import logging
import sys
import weakref
from collections import Counter
from contextlib import contextmanager

import pytest

from engine.engine_core import GRAMMAR_PAUSE
from engine.errors import DeadlineExceeded, ModelError, RequestAborted, ServiceError, ValidationError
from engine.faults import Inconsistent, Poisoned
from engine.model.choice import Choice
from engine.prefix_scopes import PrefixScopes
from engine.schedule.block_pool import BLOCK, BlockPool
from engine.schedule.scheduler import MASK_SECONDS, QUICK_MASK
from engine.schedule.sequence import Phase
from tests.engine.driver import Driver
from tests.engine.scripted_runner import LaunchingRunner, ScriptedRunner
from tests.engine.sequences import outcome, sequence


@pytest.fixture(autouse=True, params=[ScriptedRunner, LaunchingRunner])
def runner_class(request, monkeypatch):
    """Every test runs with steps one after another, and with steps that are launched one ahead."""
    monkeypatch.setattr(Core, "runner_class", request.param)


# For tests that count steps: what is launched ahead is read a step later.
one_after_another = pytest.mark.parametrize("runner_class", [ScriptedRunner], indirect=True)
one_ahead = pytest.mark.parametrize("runner_class", [LaunchingRunner], indirect=True)


class Core(Driver):
    """A driver whose prompts need no tokenizer."""

    runner_class = ScriptedRunner

    def __init__(self, pool=None, **limits):
        super().__init__(None, self.runner_class(), pool, **limits)

    def come(self, client="", **details):
        self.room.admit(client)
        submitted = sequence(client, arrival=self.now, on_abort=self.room.notify_abort, **details)
        submitted.scope = self.scopes.of(client, submitted.token_ids)
        self.room.put(submitted)
        return submitted

    def assert_clean(self):
        """Check that no slot and no block is held and no request is in flight."""
        assert not self.core.step()
        self.core.check_idle()
        assert self.pool.used == 0
        assert self.room.num_in_flight() == 0
        assert self.core.scheduler.running == []


def out_of_memory():
    """Return an error as torch raises it; that torch's own class counts as one, test_faults says."""
    return RuntimeError("CUDA out of memory.")


def raise_for(culprit, error, times=10**9):
    """Return a hook that raises `error` in each step in which `culprit` takes part, so many times."""
    left = [times]

    def on_run(plan):
        if left[0] and culprit in [submitted for submitted, _ in plan.rows]:
            left[0] -= 1
            raise error

    return on_run


def lengths(rows):
    """Return the number of tokens of each answer."""
    return [outcome(submitted).output_tokens for submitted in rows]


def test_every_answer_gets_its_length():
    """Requests of different lengths finish in one batch, and the counters know all of them."""
    core = Core()
    submitted = [core.come(tokens=3, max_tokens=length) for length in (1, 5, 9, 2, 7)]
    core.run()
    assert lengths(submitted) == [1, 5, 9, 2, 7]
    assert {outcome(row).finish_reason for row in submitted} == {"length"}
    assert outcome(submitted[0]).text == "a"
    assert (core.counters.prompt_tokens, core.counters.generation_tokens) == (15, 24)
    assert core.counters.steps == len(core.runner.steps)
    core.assert_clean()


@one_after_another
def test_times_are_those_of_the_engines_clock():
    """Waiting, the first token and the end, in seconds from arrival."""
    core = Core(max_num_seqs=1)
    core.come(max_tokens=10)
    submitted = core.come(max_tokens=3)
    core.run()
    timings = outcome(submitted).timings
    assert (round(timings.queued, 3), round(timings.first_token, 3), round(timings.total, 3)) == (0.1, 0.1, 0.12)


@one_after_another
def test_a_cached_prefix_is_counted_and_not_computed_again():
    """Cached tokens are the prompt's alone, also if a preempted answer finds its own prefix."""
    core = Core(max_num_seqs=1)
    core.come(tokens=2 * BLOCK + 8, max_tokens=1)
    core.run()
    submitted = core.come(tokens=2 * BLOCK + 8, max_tokens=30)
    core.run(20)
    core.core.scheduler.preempt(submitted)
    core.run()
    assert outcome(submitted).cached_tokens == core.counters.cached_tokens == 2 * BLOCK
    assert core.counters.prompt_tokens == 2 * (2 * BLOCK + 8)
    name = submitted.request.request_id
    assert [counts[name] for counts in map(dict, core.runner.steps) if counts.get(name, 1) > 1] == [8, 12]


def test_one_bad_sequence_fails_alone():
    """A step that raises for one of many is tried in halves until that one is found; the others get their answers."""
    core = Core(max_num_seqs=8)
    submitted = [core.come() for _ in range(8)]
    core.runner.on_run = raise_for(submitted[5], ValueError("a library's text"))
    core.run()
    failed = outcome(submitted[5])
    assert type(failed) is ModelError
    assert failed.message == "The model failed on this request."
    assert lengths([*submitted[:5], *submitted[6:]]) == [8] * 7
    core.assert_clean()


def test_a_sequence_that_fails_while_decoding_fails_alone():
    """The others lose no token and get none twice."""
    core = Core(max_num_seqs=4)
    submitted = [core.come(max_tokens=9) for _ in range(4)]
    core.run(4)
    blocks = submitted[2].blocks
    core.runner.on_run = raise_for(submitted[2], RuntimeError("boom"))
    core.run()
    assert type(outcome(submitted[2])) is ModelError
    assert lengths([submitted[0], submitted[1], submitted[3]]) == [9] * 3
    assert core.runner.zeroed == blocks
    core.assert_clean()


def test_bad_input_found_at_the_start_fails_alone():
    """A sequence that cannot start leaves at once; the next takes its slot in the same step."""
    core = Core(max_num_seqs=1)
    bad, good = core.come(), core.come()

    def on_begin(submitted):
        if submitted is bad:
            raise IndexError("bad")

    core.runner.on_begin = on_begin
    core.run()
    assert type(outcome(bad)) is ModelError
    assert lengths([good]) == [8]
    core.assert_clean()


@pytest.mark.parametrize("error", [out_of_memory, MemoryError])
def test_out_of_memory_shrinks_the_step_before_a_sequence_fails(error):
    """A step of eight that fits in halves delays no sequence."""
    core = Core(max_num_seqs=8)
    submitted = [core.come(tokens=4) for _ in range(8)]

    def on_run(plan):
        if sum(count for _, count in plan.rows) > 8:
            raise error()

    core.runner.on_run = on_run
    core.run()
    assert lengths(submitted) == [8] * 8
    core.assert_clean()


def test_a_prompt_that_does_not_fit_is_read_in_smaller_parts():
    """A chunk of one sequence is cut before the sequence fails, and no token is read twice."""
    core = Core()
    submitted = core.come(tokens=50, max_tokens=2)

    def on_run(plan):
        if max(count for _, count in plan.rows) > 13:
            raise out_of_memory()

    core.runner.on_run = on_run
    core.run()
    assert lengths([submitted]) == [2]
    assert sum(count for step in core.runner.steps[:-1] for _, count in step) == 50
    core.assert_clean()


def test_out_of_memory_for_good_fails_only_the_sequence_at_fault():
    """Its error says so, its blocks are free and zeroed, and its neighbours continue."""
    core = Core()
    submitted = [core.come(tokens=20) for _ in range(3)]
    core.runner.on_run = raise_for(submitted[1], out_of_memory())
    core.run()
    assert outcome(submitted[1]).message == "The model ran out of memory for this request."
    assert lengths([submitted[0], submitted[2]]) == [8, 8]
    assert core.runner.zeroed
    core.assert_clean()


def test_a_sequence_that_cannot_be_checked_gives_up_all_its_blocks():
    """Where there is no memory to look for what is not finite; nobody else notices."""
    core = Core()
    submitted = [core.come(tokens=2 * BLOCK + 1, client=client) for client in "ab"]
    core.runner.choose = lambda row: Choice(0, row is not submitted[1])

    def not_finite(blocks):
        raise out_of_memory()

    core.runner.not_finite = not_finite
    core.run()
    assert type(outcome(submitted[1])) is ModelError
    assert lengths(submitted[:1]) == [8]
    core.assert_clean()
    core.runner.choose = lambda row: Choice(0, True)
    again = [core.come(tokens=2 * BLOCK + 1, client=client) for client in "ab"]
    core.run()
    assert [outcome(row).cached_tokens for row in again] == [2 * BLOCK, 0]


@pytest.mark.parametrize("tokens", [1, 2, 20])
def test_a_lone_prompt_that_never_fits_is_the_only_one_that_fails(tokens):
    """Once its first half has failed for good, the second is not run: the sequence has no slot and no blocks."""
    core = Core()
    submitted = core.come(tokens=tokens)

    def on_run(plan):
        assert all(sequence.slot >= 0 for sequence, _ in plan.rows)
        raise_for(submitted, out_of_memory())(plan)

    core.runner.on_run = on_run
    core.run()
    assert outcome(submitted).message == "The model ran out of memory for this request."
    other = core.come()
    core.run()
    assert lengths([other]) == [8]
    core.assert_clean()


def test_out_of_memory_once_costs_nothing():
    """The same step in halves succeeds."""
    core = Core()
    submitted = [core.come() for _ in range(4)]
    core.runner.on_run = raise_for(submitted[0], out_of_memory(), times=1)
    core.run()
    assert lengths(submitted) == [8] * 4


class Memory:
    """Stands for the tensors of a step, which the frames of its error hold; told by weak references to it."""


def failing(refs, error):
    """Raise from a frame that holds memory."""
    held = Memory()
    refs.append(weakref.ref(held))
    raise error from ValueError("what led to it")


@pytest.fixture
def no_log():
    """Let no handler of the tests keep the records of errors, whose tracebacks hold the frames."""
    logger = logging.getLogger("avito_ai.engine")
    logger.disabled = True
    yield
    logger.disabled = False


def fail_holding_memory(where, error):
    """Let the steps of one of four sequences fail; return whether any memory was held at a later step or zeroing."""
    core, refs, alive = Core(max_num_seqs=4), [], []
    bad, *good = [core.come(tokens=4, token_mask=Grammar(*[0] * 8)) for _ in range(4)]
    core.run(1)

    def look(*ignored):
        alive.append(any(ref() is not None for ref in refs))

    def on_run(plan):
        look()
        if where == "on_run" and bad in [row for row, _ in plan.rows]:
            failing(refs, error())

    def on_choose(launched):
        if where == "on_choose" and bad in [row for row, _ in launched.sequences]:
            refs.append(weakref.ref(launched))
            failing(refs, error())

    core.runner.on_run, core.runner.on_choose, core.runner.zero = on_run, on_choose, look
    gc.disable()
    try:
        core.run()
    finally:
        gc.enable()
    assert isinstance(outcome(bad), ModelError)
    assert lengths(good) == [8] * 3
    assert len(refs) >= 3  # of the step, its half, and the sequence
    return any(alive)


@pytest.mark.parametrize("error", [out_of_memory, ValueError])
def test_a_failed_step_holds_no_memory_while_its_halves_run(error, no_log):
    """Nor while the blocks of the sequence at fault are zeroed."""
    assert not fail_holding_memory("on_run", error)


@one_ahead
@pytest.mark.parametrize("error", [out_of_memory, ValueError])
def test_a_step_whose_tokens_cannot_be_chosen_holds_no_memory_either(error, no_log):
    """It is dropped itself too, with all that it has computed."""
    assert not fail_holding_memory("on_choose", error)


@pytest.mark.parametrize("error", [out_of_memory, lambda: ValidationError("no")])
def test_a_sequence_that_cannot_begin_holds_no_memory(error, no_log):
    """As it is when its blocks are zeroed."""
    core, refs, alive = Core(), [], []
    core.runner.on_begin = lambda sequence: failing(refs, error())
    core.runner.zero = lambda blocks: alive.append(refs[0]() is not None)
    submitted = core.come()
    core.run()
    assert isinstance(outcome(submitted), ServiceError)
    assert alive == [False]


@pytest.mark.parametrize("at", [0, 3])
def test_logits_that_are_not_finite_fail_only_their_row(at):
    """At the first token or later: the request fails, is counted, and what it computed is zeroed and not found."""
    core = Core()
    submitted = [core.come(tokens=2 * BLOCK + 1, client=client) for client in "abc"]
    core.runner.choose = lambda row: Choice(0, row is not submitted[1] or row.num_output < at)
    core.run(3)
    blocks = submitted[1].blocks
    core.run()
    failed = outcome(submitted[1])
    assert type(failed) is ModelError
    assert "NaN" in failed.message
    assert lengths([submitted[0], submitted[2]]) == [8, 8]
    assert {*core.runner.zeroed} >= {*blocks}
    assert core.counters.nan_logits == 1
    core.assert_clean()
    core.runner.choose = lambda row: Choice(0, True)
    again = [core.come(tokens=2 * BLOCK + 1, client=client) for client in "abc"]
    core.run()
    assert [outcome(row).cached_tokens for row in again] == [2 * BLOCK, 0, 2 * BLOCK]


def test_a_shared_block_that_is_not_finite_is_not_found_again():
    """It fails all that use it, whoever computed it; what comes before it stays while others use it."""
    core = Core()
    core.scopes = PrefixScopes("all")
    first = core.come(tokens=BLOCK + 1, max_tokens=40)
    core.come(tokens=2 * BLOCK + 1)
    core.run(20)
    second, other = core.come(tokens=2 * BLOCK + 2), core.come(tokens=3 * BLOCK + 1)
    core.run(1)
    assert second.blocks[:2] == other.blocks[:2]
    core.runner.bad = {second.blocks[1]}
    core.runner.choose = lambda row: Choice(0, row not in (second, other))
    core.run(2)
    assert [type(outcome(row)) for row in (second, other)] == [ModelError] * 2
    again = core.come(tokens=2 * BLOCK + 1)
    core.run()
    assert outcome(again).cached_tokens == BLOCK
    assert lengths([first]) == [40]
    core.assert_clean()


class Grammar:
    """Follows a script of allowed tokens, and raises `error` beyond it."""

    ready = quick = True
    step_seconds = usual_seconds = spent = 0.0

    def __init__(self, *tokens, error=None):
        self.left, self.taken = list(tokens), []
        self.error = error or ValueError("the grammar does not go on like this")

    def bitmask(self):
        raise AssertionError("the scripted runner asks for no mask")

    def accept(self, token_id):
        if token_id != self.left.pop(0):
            raise self.error
        self.taken.append(token_id)
        return True

    def prepare(self):
        """It is always there."""


def test_a_grammar_follows_each_token_and_its_failure_is_its_own():
    """A mask that does not accept a token ends its request alone; the token is not shown."""
    core = Core()
    good, bad, other = Grammar(0, 0, 0), Grammar(0, 9), None
    submitted = [core.come(max_tokens=3, token_mask=mask) for mask in (good, bad, other)]
    core.run()
    assert lengths([submitted[0], submitted[2]]) == [3, 3]
    assert good.taken == [0, 0, 0]
    assert type(outcome(submitted[1])) is ModelError
    core.assert_clean()


class Slow(Grammar):
    """A grammar whose masks are there once it is told so; asked: how often it was looked whether they are."""

    ready_now, asked = False, 0

    @property
    def ready(self):
        self.asked += 1
        return self.ready_now

    quick = ready


class Coming(Grammar):
    """A grammar whose mask is there at every other look."""

    looks = 0

    @property
    def ready(self):
        self.looks += 1
        return self.looks % 2 == 0

    quick = ready


def test_a_mask_that_comes_amid_a_step_leaves_the_engine_at_work():
    """It would sleep otherwise, and everybody's answers with it, since nothing wakes it then."""
    core = Core()
    submitted = core.come(max_tokens=5, token_mask=Coming(*[0] * 5))
    for _ in range(30):
        assert core.core.step() or outcome(submitted) is not None
    assert lengths([submitted]) == [5]
    core.assert_clean()


def test_a_row_without_its_mask_sits_steps_out():
    """Others go on meanwhile, those that come later too; once it is there, the row goes on."""
    core = Core()
    slow, mask = None, Slow(0, 0, 0)
    mask.ready_now = True
    slow = core.come(max_tokens=3, token_mask=mask)
    core.run(1)
    mask.ready_now = False
    other = core.come(max_tokens=5)
    core.run(3)
    later = core.come(max_tokens=2)
    core.run(6)
    assert lengths([other, later]) == [5, 2]
    assert (len(mask.taken), slow.phase) == (1, Phase.RUNNING)
    mask.ready_now = True
    core.run()
    assert lengths([slow]) == [3]
    core.assert_clean()


class Heavy(Grammar):
    """A grammar of which each token takes some seconds of a step."""

    def __init__(self, *tokens, seconds):
        super().__init__(*tokens)
        self.step_seconds = self.usual_seconds = seconds
        self.spent = 0.0

    def accept(self, token_id):
        self.spent += self.step_seconds
        return super().accept(token_id)


@pytest.mark.parametrize(("seconds", "at_once"), [(MASK_SECONDS / 2, 2), (MASK_SECONDS, 1), (1.0, 1), (QUICK_MASK, 6)])
def test_rows_whose_tokens_take_long_take_turns(seconds, at_once):
    """So that many of them do not lengthen the steps of others; those that take no time are in each."""
    core = Core(max_num_seqs=8)
    masks = [Heavy(*[0] * 9, seconds=seconds) for _ in range(6)]
    rows = [core.come(max_tokens=9, token_mask=mask) for mask in masks]
    other = core.come(max_tokens=9)
    grown, before = set(), 0
    while core.run(1):
        taken = [len(mask.taken) for mask in masks]
        grown.add(sum(taken) - before)
        before = sum(taken)
        assert max(taken) - min(taken) <= 1
    assert grown - {0, 6} == {at_once} - {6}  # all at once with their prompts
    assert lengths([*rows, other]) == [9] * 7
    core.assert_clean()


class Late(Grammar):
    """A grammar whose mask is late for each token but every third look."""

    looks = 0

    def accept(self, token_id):
        self.looks += 1
        return self.looks % 3 == 0 and super().accept(token_id)


def test_a_token_chosen_without_its_mask_is_chosen_again():
    """The first one behind the prompt, too; others in the step go on."""
    core = Core()
    mask = Late(0, 0, 0)
    late, other = core.come(max_tokens=3, token_mask=mask), core.come(max_tokens=3)
    core.run()
    assert lengths([late, other]) == [3, 3]
    assert (mask.taken, mask.looks) == ([0, 0, 0], 9)
    core.assert_clean()


class Sudden(Grammar):
    """A grammar that was quick until now, and of which each token takes a second. core: whose clock goes on."""

    def __init__(self, core, *tokens):
        super().__init__(*tokens)
        self.core = core

    def accept(self, token_id):
        self.core.now += 1.0
        return super().accept(token_id)


def test_tokens_that_suddenly_take_long_do_not_add_up_in_a_step():
    """One row takes its token; those behind it choose theirs again in later steps, and get the same answer."""
    core = Core(max_num_seqs=4)
    masks = [Sudden(core, 0, 0) for _ in range(3)]
    rows = [core.come(max_tokens=2, token_mask=mask, timeout=1000.0) for mask in masks]
    other = core.come(max_tokens=2, timeout=1000.0)
    before = 0
    while core.run(1):
        taken = sum(len(mask.taken) for mask in masks)
        assert taken <= before + 1
        before = taken
    assert lengths([*rows, other]) == [2] * 4
    core.assert_clean()


def test_an_engine_that_waits_for_masks_alone_is_not_idle(monkeypatch):
    """It looks again soon, without keeping a core busy; deadlines end what waits."""
    pauses = []
    monkeypatch.setattr("engine.engine_core.time.sleep", pauses.append)
    core, mask = Core(), Slow(0, 0, 0)
    mask.ready_now = True
    slow = core.come(max_tokens=3, token_mask=mask, timeout=50.0)
    core.run(1)
    mask.ready_now = False
    core.run(1)  # reads a step that was launched ahead, or waits already
    pauses.clear()
    assert core.run(5) == 5
    assert pauses == [GRAMMAR_PAUSE] * 5
    core.now += 100.0
    core.run(1)
    assert type(outcome(slow)) is DeadlineExceeded
    core.assert_clean()


def test_a_schema_that_cannot_be_followed_is_the_clients_mistake(caplog):
    """The error of the mask is that of the request; it is no failure of the model and leaves no stack in the log."""
    core = Core()
    error = ValidationError("tools is too complex.", "tools")
    made = core.come(max_tokens=3, token_mask=Grammar(0, 9, error=error))
    core.run()
    told = outcome(made)
    assert (type(told), str(told), told.param) == (ValidationError, str(error), "tools")
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]
    core.assert_clean()


def test_stop_strings_end_an_answer_and_are_not_shown():
    """Across token borders; the answer ends as `stop`."""
    core = Core()
    core.runner.choose = lambda row: Choice(row.num_output, True)
    submitted = core.come(max_tokens=20, stop=("ef", "de"))
    core.run()
    assert (outcome(submitted).text, outcome(submitted).finish_reason, outcome(submitted).output_tokens) == (
        "abc",
        "stop",
        5,
    )


def test_an_unfinished_stop_string_is_shown_at_the_end():
    """What was held back because it could have been one belongs to the answer."""
    core = Core()
    core.runner.choose = lambda row: Choice(row.num_output, True)
    submitted = core.come(max_tokens=4, stop=("dx",))
    core.run()
    assert (outcome(submitted).text, outcome(submitted).finish_reason) == ("abcd", "length")


class HoldsToTheEnd:
    """A detokenizer with a character that stays incomplete, and that the stop string is."""

    stopped, stop, held = False, None, 0

    def add(self, token_id):
        return "b" if token_id else ""

    def flush(self):
        self.stopped, self.stop = True, "\ufffd"
        return ""


def test_a_stop_string_that_shows_at_the_end_alone_is_the_reason():
    """The answer is cut before it, and the length did not end it."""
    core = Core()
    core.runner.choose = lambda row: Choice(row.num_output % 2, True)
    submitted = core.come(max_tokens=4, stop=("\ufffd",))
    submitted.detokenizer = HoldsToTheEnd()
    core.run()
    found = outcome(submitted)
    assert (found.text, found.finish_reason, found.stop) == ("bb", "stop", "\ufffd")
    core.assert_clean()


def test_streamed_pieces_joined_are_the_whole_answer(monkeypatch):
    """Pieces come at most every interval, the first at once; each carries its tokens and log probabilities."""
    monkeypatch.setattr("engine.engine_core.STREAM_INTERVAL", 0.025)
    core = Core()
    core.runner.choose = lambda row: Choice(row.num_output, True, -0.5, ((1, -0.1), (2, -0.2)))
    submitted = core.come(max_tokens=9, logprobs=2)
    stream = submitted.generation.pieces(idle=0.0)
    assert next(stream).text == ""
    pieces = []
    while core.run(1):
        pieces += [piece for _ in range(submitted.generation.unread) if (piece := next(stream)).text]
    pieces += stream
    completion = outcome(submitted)
    assert [piece.text for piece in pieces] == ["a", "bcd", "efg", "hi"]
    assert sum((piece.token_ids for piece in pieces), ()) == tuple(range(9))
    assert sum((piece.logprobs for piece in pieces), ()) == completion.logprobs
    first = completion.logprobs[0]
    assert (first.token_id, first.logprob, [value for _, _, value in first.top]) == (0, -0.5, [-0.1, -0.2])
    assert completion.text == "abcdefghi"


def test_the_parts_of_a_client_that_does_not_read_are_joined():
    """Not kept one by one: a full collection of garbage would visit thousands of them."""
    core = Core()
    core.runner.choose = lambda row: Choice(row.num_output % 26, True)
    submitted = core.come(max_tokens=400)
    stream = submitted.generation.pieces(idle=0.0)
    assert next(stream).text == ""
    core.run(300)
    assert len(submitted.generation._pieces) == 1
    assert next(stream).text == "a"
    core.run()
    pieces = list(stream)
    assert len(pieces) == 2
    assert "a" + "".join(piece.text for piece in pieces) == outcome(submitted).text
    assert 1 + sum(len(piece.token_ids) for piece in pieces) == 400


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [((), "abcdef", "abcdef"), (("cd",), "ab", "ab"), (("c",), "ab", "ab"), (("fx",), "abcdef", "abcdef")],
)
def test_log_probabilities_are_those_of_the_text_that_is_shown(stop, text, tokens):
    """Each comes with its text or behind it; those of a stop string, which is no part of the answer, never."""
    core = Core()
    core.runner.choose = lambda row: Choice(row.num_output, True, -0.5)
    submitted = core.come(max_tokens=6, logprobs=0, stop=stop)
    stream = submitted.generation.pieces(idle=0.0)
    next(stream)
    core.run()
    shown = 0
    for piece in stream:
        shown += len(piece.text)
        assert all(one.offset < shown for one in piece.logprobs)
    completion = outcome(submitted)
    assert completion.text == text
    assert [one.token for one in completion.logprobs] == list(tokens)
    assert [one.offset for one in completion.logprobs] == list(range(len(tokens)))


def test_a_request_that_does_not_stream_is_handed_over_once():
    """The consumer is not woken for parts that it does not read."""
    core = Core()
    submitted = core.come(max_tokens=9)
    core.run()
    assert [len(piece.token_ids) for piece in submitted.generation.pieces()] == [9]


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_an_abort_is_effective_within_two_steps(steps):
    """Waiting, in prefill, in decode: no more tokens, slot and capacity are free, the others continue."""
    core = Core(max_num_seqs=2, max_num_batched_tokens=8)
    other, submitted = core.come(tokens=2, max_tokens=40), core.come(tokens=20, max_tokens=40)
    core.run(steps)
    submitted.generation.abort()
    output = submitted.num_output
    core.run(2)
    assert isinstance(outcome(submitted), RequestAborted)
    assert submitted.num_output <= output + 1
    assert submitted.phase is (Phase.WAITING if steps == 0 else Phase.FINISHED)
    core.run()
    assert lengths([other]) == [40]
    core.assert_clean()


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_what_an_aborted_answer_took_is_told(steps):
    """Nothing while it waits, what was computed of its prompt, and all of that with its own tokens."""
    core = Core(max_num_seqs=2, max_num_batched_tokens=8)
    submitted = core.come(tokens=20, max_tokens=40)
    core.run(steps)
    submitted.generation.abort()
    core.run()
    spent = submitted.generation.spent
    assert spent.output_tokens == submitted.num_output
    assert spent.prompt_tokens == (20 if submitted.num_output else min(submitted.num_computed, 20))
    assert (spent.prompt_tokens > 0, spent.output_tokens > 0) == (steps > 0, steps > 5)


def test_what_a_finished_answer_took_is_its_completion():
    """The same tokens as its client is told."""
    core = Core()
    submitted = core.come(tokens=5)
    core.run()
    completion = outcome(submitted)
    spent = submitted.generation.spent
    assert (spent.prompt_tokens, spent.output_tokens) == (completion.prompt_tokens, completion.output_tokens)


def test_an_abort_after_the_end_changes_nothing():
    """The answer stays."""
    core = Core()
    submitted = core.come()
    core.run()
    submitted.generation.abort()
    core.assert_clean()
    assert lengths([submitted]) == [8]


@pytest.mark.parametrize("preempted", [False, True])
def test_blocks_left_during_prefill_are_zeroed(preempted):
    """No logits have shown yet that what lies there is finite; what can be found again is kept."""
    core = Core(max_num_batched_tokens=BLOCK + 4)
    submitted = core.come(tokens=3 * BLOCK)
    core.run(1)
    blocks = submitted.blocks
    if preempted:
        core.core._zero_unproven(submitted, core.core.scheduler.preempt(submitted))
        assert core.runner.zeroed == blocks[:0:-1]
        assert core.pool.find(submitted.keys(), submitted.scope) == blocks[:1]
    else:
        submitted.generation.abort()
        core.run()
        assert core.runner.zeroed == blocks[::-1]


def test_deadlines_hold_for_waiting_and_for_the_whole_request():
    """Each ends with a typed error, at its deadline and not before."""
    core = Core(max_num_seqs=1)
    running = core.come(max_tokens=10_000, timeout=2.0)
    waiting = core.come(wait=1.0)
    core.run(99)
    assert outcome(waiting) is None
    core.run(3)
    assert "turn" in outcome(waiting).message
    core.run(90)
    assert outcome(running) is None
    core.run(20)
    assert isinstance(outcome(running), DeadlineExceeded)
    core.assert_clean()


def test_a_preempted_answer_goes_on_where_it_was():
    """Its prefix is cached; every answer has each of its tokens once."""
    core = Core(max_num_seqs=2)
    core.runner.choose = lambda row: Choice(row.num_output % 26, True)
    greedy = [core.come("greedy", max_tokens=12) for _ in range(2)]
    core.run(3)
    core.come("other", max_tokens=6)
    core.run()
    assert core.counters.preemptions == 1
    assert {outcome(submitted).text for submitted in greedy} == {"abcdefghijkl"}
    core.assert_clean()


@one_after_another
def test_the_prefix_of_a_sequence_is_found_from_its_first_token_on():
    """Its prompt's whole blocks at once, those of its answer, less its last token, when it has ended."""
    core = Core(max_num_batched_tokens=200)
    submitted = core.come(tokens=BLOCK, max_tokens=BLOCK + 1)
    core.run(1)
    keys = [*submitted.keys(), "next"]
    assert core.pool.find(keys, submitted.scope) == submitted.blocks[:1]
    core.pool.release(submitted.blocks[:1])
    core.run()
    assert len(core.pool.find([*submitted.keys(), "next"], submitted.scope)) == 2


def test_a_prefix_is_not_found_before_its_first_token():
    """Until the first logits have shown that it is finite."""
    core = Core(max_num_batched_tokens=BLOCK + 4)
    submitted = core.come(tokens=3 * BLOCK)
    core.run(2)
    assert len(core.pool) == 0
    core.run()
    assert len(core.pool) == (3 * BLOCK + 7) // BLOCK
    assert lengths([submitted]) == [8]


def test_a_scope_that_keeps_nothing_leaves_its_blocks_free():
    """After a preemption too, when they are registered for its own resumption."""
    core = Core(max_num_seqs=1)
    submitted = core.come(tokens=2 * BLOCK, max_tokens=10)
    submitted.scope = PrefixScopes("none").of("", submitted.token_ids)
    core.run(4)
    core.core.scheduler.preempt(submitted)
    assert len(core.pool) == 2
    core.run()
    assert lengths([submitted]) == [10]
    assert len(core.pool) == 0
    core.assert_clean()


def test_answers_are_whole_where_blocks_run_out():
    """Sequences that need more than there is take their turns; each answer has every token once, in order."""
    core = Core(BlockPool(9), max_num_seqs=8, max_num_batched_tokens=200)
    core.runner.choose = lambda row: Choice(row.num_output % 26, True)
    submitted = [core.come(client, tokens=20, max_tokens=60) for client in "aab" for _ in range(2)]
    core.run()
    assert core.counters.preemptions > 2
    assert {outcome(row).text for row in submitted} == {"".join(chr(97 + n % 26) for n in range(60))}
    core.assert_clean()


@pytest.mark.parametrize(
    "error",
    [
        lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
        lambda: RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        lambda: Poisoned("lost"),
    ],
)
@pytest.mark.parametrize("where", ["on_run", "on_begin"])
def test_a_lost_device_fails_no_sequence_in_the_core(error, where):
    """An error that poisons the process is not tried again and leaves the core as such."""
    core = Core()
    submitted = [core.come() for _ in range(4)]
    calls = []

    def fail(_):
        calls.append(1)
        raise error()

    setattr(core.runner, where, fail)
    with pytest.raises(Poisoned):
        core.core.step()
    assert len(calls) == 1
    assert all(outcome(row) is None for row in submitted)


@pytest.mark.parametrize("fault", ["slot", "block", "in flight"])
def test_an_idle_engine_finds_inconsistent_accounting(fault):
    """A slot, a block or a request in flight without an owner is found when there is nothing to do."""
    core = Core()
    core.come()
    core.run()
    core.core.check_idle()
    if fault == "slot":
        core.core.scheduler._free_slots.pop()
    elif fault == "block":
        core.pool.allocate(1)
    else:
        core.room._in_flight.by_client["ghost"] += 1
    with pytest.raises(Inconsistent):
        core.core.check_idle()


def test_a_core_at_its_end_fails_all_sequences_and_zeroes_their_blocks():
    """Running and waiting requests each get a separate error; only the blocks in use are zeroed."""
    core = Core(max_num_seqs=2)
    submitted = [core.come() for _ in range(4)]
    core.run(2)
    blocks = sorted(block for row in submitted[:2] for block in row.blocks)
    core.core.fail_all(ModelError, "over")
    core.core.clean()
    errors = [outcome(row) for row in submitted]
    assert {type(error) for error in errors} == {ModelError}
    assert len({id(error) for error in errors}) == 4
    assert core.runner.zeroed == blocks
    assert core.runner.discarded == 1
    assert core.room.num_in_flight() == 0


def test_nothing_of_a_finished_request_is_kept():
    """After many requests of every end, no sequence and no generation is held by the engine."""
    core = Core()
    core.runner.choose = lambda row: Choice(0, row.num_prompt != 7)
    submitted = [core.come(client, tokens=tokens) for client in "abc" for tokens in (4, 7, 9) for _ in range(10)]
    for row in submitted[::4]:
        row.generation.abort()
    core.run()
    core.assert_clean()
    held = [weakref.ref(row.generation) for row in submitted]
    del submitted, row
    gc.collect()
    assert [ref for ref in held if ref() is not None] == []


CALLS_OF_A_ROW = 90  # in a step, at most; those of the scripted runner and of the driver are among them


@contextmanager
def counted():
    """Count the calls of this thread in a block, of Python's functions and of C's."""
    calls, before = Counter(), sys.getprofile()
    sys.setprofile(lambda frame, event, arg: calls.update([event]))
    try:
        yield calls
    finally:
        sys.setprofile(before)


def test_the_hosts_own_work_is_a_small_part_of_a_step():
    """Scheduling, accounting and delivery take some 70 calls for each of 32 rows, however many wait."""
    core = Core(max_num_seqs=32, max_waiting=128)
    submitted = [core.come(str(number), max_tokens=4000, timeout=1e9, wait=1e9) for number in range(160)]
    core.run(5)
    streams = [row.generation.pieces(idle=0.0) for row in submitted[:32]]
    for stream in streams:
        next(stream)
    with counted() as calls:
        core.run(200)
    assert len(core.core.scheduler.running) == 32
    assert 0 < calls["call"] + calls["c_call"] < 200 * 32 * CALLS_OF_A_ROW


# --- one step ahead ---


@one_ahead
def test_the_next_step_is_launched_before_the_tokens_of_the_last_are_read():
    """Three tokens: each step but the first is launched while the one before it is not read yet."""
    core = Core()
    order = []
    core.runner.on_run = lambda plan: order.append("launch")
    core.runner.on_collect = lambda launched: order.append("read")
    submitted = core.come(max_tokens=3)
    core.run()
    assert order == ["launch", "launch", "read", "launch", "read", "read"]
    assert outcome(submitted).output_tokens == 3
    core.assert_clean()


@one_ahead
def test_a_grammar_is_told_of_a_token_while_the_next_step_is_computed():
    """Which is launched before; its token is chosen once the grammar knows the last one."""
    core, mask, found = Core(), Grammar(0, 0, 0), []
    core.runner.on_run = lambda plan: found.append("launch")
    core.runner.on_choose = lambda launched: found.append(f"choose after {len(mask.taken)}")
    submitted = core.come(max_tokens=3, token_mask=mask)
    core.run()
    assert found == ["launch", "choose after 0", "launch", "choose after 1", "launch", "choose after 2"]
    assert outcome(submitted).output_tokens == 3
    core.assert_clean()


@one_ahead
def test_what_is_computed_with_a_token_that_its_grammar_did_not_take_does_not_count():
    """The step in flight chose another token for it, which nobody gets; others of the step keep theirs."""
    core, mask = Core(), Late(0, 0, 0)
    mask.looks = 2  # the first token is taken, and then every third
    late, other = core.come(max_tokens=3, token_mask=mask), core.come(max_tokens=9)
    computed = []
    core.runner.on_run = lambda plan: computed.extend(s.num_computed for s, _ in plan.rows if s is late)
    core.run()
    first = late.num_prompt
    assert computed == [0, *[first, first + 1] * 3, first + 1, first + 1]  # the last token has none behind it
    assert lengths([late, other]) == [3, 9]
    core.assert_clean()


@one_ahead
def test_tokens_that_cannot_be_chosen_are_computed_again_in_halves():
    """As after a step that cannot be launched: only the sequence at fault fails, and no token is lost."""
    core = Core(max_num_seqs=3)
    bad, *good = (core.come(max_tokens=5, token_mask=mask) for mask in (Grammar(*[0] * 5), Grammar(*[0] * 5), None))
    core.run(3)

    def fail(launched):
        if any(sequence is bad for sequence, _ in launched.sequences):
            raise ValueError("no")

    core.runner.on_choose = fail
    core.run()
    assert isinstance(outcome(bad), ModelError)
    assert lengths(good) == [5, 5]
    core.assert_clean()


@one_ahead
def test_what_is_computed_beyond_the_end_of_an_answer_is_dropped():
    """A stop string ends the answer while the next step runs: its token reaches nobody, and all blocks are free."""
    core = Core()
    submitted = core.come(max_tokens=20, stop=("aa",))
    core.run()
    assert outcome(submitted).text == ""
    assert outcome(submitted).output_tokens == 2
    assert len(core.runner.steps) == 3
    core.assert_clean()


@one_ahead
def test_a_preempted_sequence_loses_no_token_of_the_step_in_flight():
    """Its token is sampled again once it runs again; what the step in flight sampled is dropped."""
    core = Core(max_num_seqs=1)
    tokens = iter(range(100))
    core.runner.choose = lambda sequence: Choice(next(tokens) % 26, True)
    submitted = core.come(max_tokens=4)
    core.run(2)
    assert (submitted.num_output, submitted.pending) == (1, 1)
    core.core.scheduler.preempt(submitted)
    assert submitted.pending == 0
    core.run()
    assert outcome(submitted).output_tokens == 4
    core.assert_clean()


@one_ahead
def test_a_step_that_cannot_be_launched_loses_nothing_of_the_one_before():
    """The tokens in flight are read first; then the failed step runs again in halves, and only its culprit fails."""
    core = Core(max_num_seqs=2, max_num_batched_tokens=200)
    good, bad = core.come(max_tokens=5), core.come(max_tokens=5)
    core.run(2)
    core.runner.on_run = raise_for(bad, ValueError("no"))
    core.run()
    assert isinstance(outcome(bad), ModelError)
    assert outcome(good).output_tokens == 5
    core.assert_clean()


# --- drafts ---


@one_after_another
def test_a_client_with_more_than_its_share_has_no_drafts_beside_others(runner_class, monkeypatch):
    """They would lengthen the steps of others, who have theirs; alone again, it gets them."""
    monkeypatch.setattr(ScriptedRunner, "drafts", 8)
    monkeypatch.setattr(ScriptedRunner, "ahead", 8)
    core, drafted = Core(max_num_seqs=8), Counter()

    def count(plan):
        drafted.update({sequence.request.client: len(sequence.drafts) for sequence in plan.decode})

    core.runner.on_run = count
    for client, tokens in (("greedy", 200), ("greedy", 200), ("other", 40)):
        core.come(client, max_tokens=tokens)
    core.run(3)
    while any(sequence.request.client == "other" for sequence in core.core.scheduler.running):
        assert drafted["greedy"] == 0
        core.run(1)
    assert drafted["other"] > 0
    core.run(8)
    assert drafted["greedy"] > 0
    core.run()
    core.assert_clean()


@one_after_another
def test_drafts_learn_from_whole_steps(monkeypatch):
    """From the choice of its sequences to the text of their tokens; one with a prompt says nothing of the others."""
    monkeypatch.setattr(ScriptedRunner, "drafts", 8)
    monkeypatch.setattr(ScriptedRunner, "ahead", 8)
    core, learned = Core(max_num_seqs=8), []

    def taking(seconds, call):
        def taken(*args):
            core.now += seconds
            return call(*args)

        return taken

    for name, seconds in (("_schedule", 0.25), ("_run", 1.0), ("_postprocess", 0.5)):
        monkeypatch.setattr(core.core, name, taking(seconds, getattr(core.core, name)))
    monkeypatch.setattr(core.core.scheduler.drafts, "learn", lambda rows, seconds: learned.append((rows, seconds)))
    for _ in range(3):
        core.come(tokens=1, max_tokens=3)
    core.run()
    assert learned == [(3, pytest.approx(1.75))] * 2
    learned.clear()
    core.come(tokens=9, max_tokens=1)
    core.run()
    assert learned == []
