"""The scheduler: what each step computes, which sequences get slots and which are preempted."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DeadlineExceeded, RequestAborted
from engine.model.choice import Choice
from engine.schedule.block_pool import BLOCK, BlockPool
from engine.schedule.plan import Plan
from engine.schedule.priority_queues import BATCH_EVERY, INTERACTIVE_EVERY
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Phase
from engine.schedule.step_shares import EXPECTED_FOR, NOT_BACK
from engine.schedule.waiting_room import WaitingRoom
from tests.engine.sequences import sequence


class Floor:
    """A scheduler with its waiting room; `step` plans and computes at once. drafted: how many drafts of a row hold."""

    def __init__(
        self,
        slots=4,
        budget=16,
        can_start=lambda submitted: True,
        overhead=0,
        blocks=1000,
        ahead=0,
        drafted=lambda: 0,
    ):
        self.drafted = drafted
        self.room = WaitingRoom(100, 1_000_000)
        self.can_start = can_start
        self.pool = BlockPool(blocks + 1)
        self.scheduler = Scheduler(self.room, self.pool, slots, budget, self.begin, overhead, ahead)

    def begin(self, submitted):
        submitted.started_at = 0.0
        if self.can_start(submitted):
            return True
        self.scheduler.finish(submitted)
        return False

    def come(self, client="", **details):
        self.room.admit(client)
        submitted = sequence(client, **details)
        self.room.put(submitted)
        return submitted

    def step(self):
        while (victim := self.scheduler.sequence_to_preempt()) is not None:
            self.scheduler.preempt(victim)
        plan = self.scheduler.schedule()
        for submitted, count in plan.rows:
            submitted.num_computed += count
            assert submitted.num_computed <= len(submitted.blocks) * BLOCK
            if submitted.remaining == 0:
                submitted.append(0)
                for _ in range(min(self.drafted(), submitted.sampling.max_tokens - submitted.num_output)):
                    submitted.num_computed += 1
                    submitted.append(0)
                assert submitted.num_computed <= len(submitted.blocks) * BLOCK
        assert self.scheduler.check() is None
        return plan


def counts(plan):
    """Return how many tokens each prompt of a plan reads."""
    return [count for _, count in plan.prefill]


def test_an_empty_engine_has_nothing_to_do():
    """An empty plan is false."""
    assert not Floor().step()


def test_a_lone_prompt_takes_the_whole_budget():
    """A long prompt is read in chunks of a step's budget, then decoded token by token."""
    floor = Floor(budget=16)
    submitted = floor.come(tokens=40)
    assert [counts(floor.step()) for _ in range(3)] == [[16], [16], [8]]
    assert floor.step().decode == [submitted]


def test_decoding_goes_on_while_a_long_prompt_is_read():
    """Every row that decodes gets its token in every step; the prompt gets what is left of the budget."""
    floor = Floor(budget=16)
    decoding = [floor.come(tokens=2) for _ in range(3)]
    floor.step()
    floor.come(tokens=100)
    for _ in range(3):
        plan = floor.step()
        assert plan.decode == decoding
        assert counts(plan) == [13]


def test_a_long_prompt_shares_the_budget_with_one_that_waits():
    """Half of it is left to others, so that a short prompt does not wait for a long one."""
    floor = Floor(budget=16)
    floor.come(tokens=100)
    floor.come(tokens=4)
    assert counts(floor.step()) == [8, 4]


def test_a_prompt_that_fits_into_a_step_is_read_whole():
    """Split in two it would take twice as long without serving any other sooner."""
    floor = Floor(budget=16)
    floor.come(tokens=12)
    floor.come(tokens=100)
    assert counts(floor.step()) == [12, 4]


def test_a_prompt_whose_tokens_are_scored_takes_half_of_a_share():
    """Alone half of a step, and beside another a quarter: each of its tokens costs the logits too."""
    floor = Floor(budget=16)
    scored = floor.come(tokens=40, echo=True, logprobs=0)
    assert counts(floor.step()) == [8]
    floor.come(tokens=100)
    assert counts(floor.step()) == [4, 8]
    floor.come(tokens=3)
    assert counts(floor.step()) == [4, 8, 3]
    assert scored.scoring


def of_images(floor, *lengths, client="", text=2):
    """Return a prompt of images with so many tokens, and `text` more before, between and after them."""
    row = floor.come(client, tokens=sum(lengths) + text * (len(lengths) + 1))
    row.images, place = object(), text
    for number, length in enumerate(lengths):
        row.prefix_keys[place : place + length] = [(f"{row.request.request_id} {number}", n) for n in range(length)]
        place += length + text
    return row


def embed(plan):
    """Embed the images of a plan, as a runner does; return how many tokens they have together."""
    embedded = 0
    for row, count in plan.prefill:
        row.num_computed -= count
        for number, span in row.images_in(count):
            embedded += 0 if number in row.image_embeds else len(span)
            row.image_embeds[number] = object()
        row.num_computed += count
    return embedded


def test_a_step_takes_images_of_as_many_tokens_as_a_step_has():
    """Small ones go through the vision tower together; a prompt ends before one that is too many."""
    floor = Floor(budget=16)
    of_images(floor, 5, 4, 4, client="a", text=0)
    of_images(floor, 4, client="b")
    plan = floor.step()
    assert [(row.request.client, count) for row, count in plan.prefill] == [("a", 13), ("b", 2)]
    assert embed(plan) == 13
    plan = floor.step()
    assert [(row.request.client, count) for row, count in plan.prefill] == [("b", 6)]
    assert embed(plan) == 4


def test_a_step_takes_one_image_that_is_larger_than_a_step():
    """Its tokens take several steps, and only the first of them goes through the tower."""
    floor = Floor(budget=16)
    row = of_images(floor, 40, 40)
    steps = []
    while row.remaining > 1:
        plan = floor.step()
        steps.append((counts(plan), embed(plan)))
    assert steps == [([16], 40), ([16], 0), ([16], 40), ([16], 0), ([16], 0), ([6], 0)]


@given(st.lists(st.lists(st.integers(1, 40), max_size=4), min_size=1, max_size=6), st.integers(4, 20))
@settings(deadline=None, max_examples=100)
def test_whatever_images_prompts_have_a_step_embeds_one_or_few_tokens(prompts, budget):
    """All are read, and each image goes through the tower once."""
    floor = Floor(slots=6, budget=budget)
    rows = [of_images(floor, *lengths, client=str(n)) for n, lengths in enumerate(prompts)]
    largest = max((length for lengths in prompts for length in lengths), default=0)
    total = 0
    for _ in range(400):
        plan = floor.step()
        embedded = embed(plan)
        assert embedded <= max(budget, largest)
        total += embedded
    assert all(row.num_output for row in rows)
    assert total == sum(map(sum, prompts))


def test_images_of_a_found_prefix_are_not_embedded():
    """Their keys and values are there; one that was found in part is embedded again."""
    floor = Floor(budget=4 * BLOCK)
    first = of_images(floor, BLOCK, BLOCK, text=BLOCK)
    while first.remaining > 1:
        embed(floor.step())
    floor.scheduler.register(first)
    second = floor.come(tokens=first.num_prompt)
    second.images, second.prefix_keys = object(), list(first.prefix_keys)
    assert embed(floor.step()) == 0
    third = floor.come(tokens=first.num_prompt)
    third.images, third.prefix_keys = object(), [*first.prefix_keys[: 3 * BLOCK], *second.token_ids[3 * BLOCK :]]
    third.prefix_keys[3 * BLOCK + 1 : 4 * BLOCK] = [("other", n) for n in range(BLOCK - 1)]
    assert embed(floor.step()) == BLOCK - 1


def test_who_waits_for_blocks_takes_nothing_from_the_prompt_that_is_read():
    """Its chunks are halved for others that can start only."""
    floor = Floor(budget=64, blocks=-(-300 // BLOCK))
    floor.come(tokens=256)
    assert counts(floor.step()) == [64]
    floor.come(tokens=200)
    assert [counts(floor.step()) for _ in range(3)] == [[64]] * 3


def test_a_prompt_whose_tokens_are_scored_is_computed_whole():
    """Whatever is cached of it; once all are scored, what is cached serves it too."""
    floor = Floor(budget=64)
    first = floor.come(tokens=40)
    floor.step()
    floor.scheduler.register(first)
    found = floor.come(tokens=40)
    scored, done = (floor.come(tokens=40, echo=True, logprobs=0) for _ in range(2))
    done.scores.add(0, [Choice(1, True, -1.0)] * 39)
    floor.scheduler.schedule()
    assert [row.num_computed > 0 for row in (found, scored, done)] == [True, False, True]


def test_prompts_are_read_even_where_decoding_takes_the_whole_budget():
    """Each step computes at least one token of a prompt: no prompt starves."""
    floor = Floor(slots=5, budget=4)
    for _ in range(4):
        floor.come(tokens=1)
        floor.step()
    floor.come(tokens=3)
    assert counts(floor.step()) == [1]


def test_decode_rows_stand_by_slot_and_low_slots_go_first():
    """Neighbouring slots are neighbouring rows, which is what attention is fast at."""
    floor = Floor()
    submitted = [floor.come(tokens=1) for _ in range(4)]
    floor.step()
    floor.scheduler.finish(submitted[1])
    late = floor.come(tokens=1)
    floor.step()
    assert [row.slot for row in floor.step().decode] == [0, 1, 2, 3]
    assert late.slot == 1


def test_a_sequence_that_cannot_begin_leaves_its_slot_to_the_next():
    """One bad request delays no other by a step."""
    floor = Floor(slots=1, can_start=lambda submitted: submitted.request.client != "bad")
    bad, good = floor.come("bad"), floor.come("good")
    assert [submitted for submitted, _ in floor.step().prefill] == [good]
    assert (bad.phase, bad.slot, good.phase) == (Phase.FINISHED, -1, Phase.RUNNING)


def test_aborted_and_overdue_sequences_are_returned():
    """With the error that its client gets."""
    floor = Floor()
    left, late, kept = floor.come(), floor.come(timeout=5.0), floor.come()
    floor.step()
    left.generation.abort()
    ended = floor.scheduler.ended(5.0, aborted=True)
    assert [(submitted, type(error)) for submitted, error in ended] == [
        (left, RequestAborted),
        (late, DeadlineExceeded),
    ]
    assert kept not in [submitted for submitted, _ in ended]


def test_running_sequences_are_looked_at_when_one_of_them_may_have_to_end():
    """After an abort, and from the earliest deadline on, whichever of them has that, and again from the next."""
    floor = Floor()
    early, late = floor.come(timeout=5.0), floor.come(timeout=9.0)
    floor.step()
    early.generation.abort()
    assert floor.scheduler.ended(4.9, aborted=False) == []
    assert [submitted for submitted, _ in floor.scheduler.ended(5.0, aborted=False)] == [early]
    floor.scheduler.finish(early)
    assert floor.scheduler.ended(8.9, aborted=False) == []
    assert [submitted for submitted, _ in floor.scheduler.ended(9.0, aborted=False)] == [late]
    floor.scheduler.finish(late)
    assert floor.scheduler.ended(99.0, aborted=False) == []


def test_each_deadline_is_noticed_whichever_passed_before():
    """After one has passed, the next is the earliest of those that still run."""
    floor = Floor()
    running = {seconds: floor.come(timeout=seconds) for seconds in (5.0, 9.0, 30.0)}
    floor.step()
    for seconds, submitted in running.items():
        assert [ended for ended, _ in floor.scheduler.ended(seconds, aborted=False)] == [submitted]
        floor.scheduler.finish(submitted)


def test_a_client_alone_keeps_all_slots_until_another_comes():
    """Then it gives them back one by one, youngest first, until both are as equal as possible."""
    floor = Floor(slots=4)
    greedy = [floor.come("greedy") for _ in range(6)]
    floor.step()
    assert [submitted.slot >= 0 for submitted in greedy] == [True] * 4 + [False] * 2
    for _ in range(4):
        floor.come("modest")
    for _ in range(6):
        floor.step()
    held = [submitted.request.client for submitted in floor.scheduler.running]
    assert sorted(held) == ["greedy"] * 2 + ["modest"] * 2
    assert all(submitted in floor.scheduler.running for submitted in greedy[:2])


def test_equal_clients_do_not_preempt_each_other():
    """A preemption must bring them closer to equal, or preemptions would never end."""
    floor = Floor(slots=2)
    for client in "abc":
        floor.come(client)
    floor.step()
    assert floor.scheduler.sequence_to_preempt() is None


def test_interactive_requests_take_slots_from_batches_except_their_share():
    """The youngest batch is preempted; the share (an eighth, at least one) runs to its end."""
    floor = Floor(slots=4)
    batch = [floor.come("job", batch=True) for _ in range(4)]
    floor.step()
    for client in "abcdef":
        floor.come(client)
    for _ in range(6):
        floor.step()
    assert [submitted in floor.scheduler.running for submitted in batch] == [True, False, False, False]
    assert len(floor.scheduler.running) == 4


@pytest.mark.parametrize("before", range(BATCH_EVERY))
def test_a_batch_that_waits_holds_no_interactive_request_up(before):
    """Whichever start is the next: batches that hold all slots free none for another one."""
    floor = Floor(slots=4)
    for _ in range(before):
        visitor = floor.come("visitor")
        floor.step()
        floor.scheduler.finish(visitor)
    for _ in range(8):
        floor.come("job", batch=True)
    floor.step()
    visitor = floor.come("visitor")
    floor.step()
    assert visitor in floor.scheduler.running


def started(floor, before):
    """Have so many answers of a visitor start, and end."""
    for _ in range(before):
        visitor = floor.come("visitor")
        floor.step()
        floor.scheduler.finish(visitor)


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("before", range(BATCH_EVERY + INTERACTIVE_EVERY))
def test_a_batch_that_waits_keeps_no_greedy_client_in_its_slots(before, high):
    """Whichever start is the next: who stands behind the batch has the slot that the client gives up, and not it."""
    floor = Floor(slots=4, budget=64)
    started(floor, before)
    greedy = [floor.come("greedy") for _ in range(6)]
    floor.step()
    job = floor.come("job", batch=True)
    floor.step()
    visitor = floor.come("other", high=high)
    floor.step()
    assert visitor in floor.scheduler.running
    assert job not in floor.scheduler.running
    assert sum(one in floor.scheduler.running for one in greedy) == 3
    floor.scheduler.finish(visitor)
    while job not in floor.scheduler.running:  # which has what becomes free by itself, in its turn
        floor.step()
        floor.scheduler.finish(next(one for one in floor.scheduler.running if one is not job))
    assert floor.scheduler.check() is None


@pytest.mark.parametrize("total", range(2 * INTERACTIVE_EVERY))
def test_a_greedy_clients_next_request_keeps_no_one_of_high_priority_waiting(total):
    """Whose turn is behind that of an interactive one, which may have no slot given up."""
    floor = Floor(slots=5, budget=64)
    started(floor, total)
    for _ in range(9):
        floor.come("greedy")
    floor.step()
    office = floor.come("office", high=True)
    floor.step()
    assert office in floor.scheduler.running


@pytest.mark.parametrize("slots", [4, 9, 12, 20])
def test_batches_get_no_more_slots_than_they_may_keep(slots):
    """None is started and preempted at once for the next interactive request."""
    floor = Floor(slots=slots, budget=64)
    for number in range(8):
        floor.come(f"job {number}", batch=True)
    for number in range(slots + 3 * BATCH_EVERY):
        floor.come(f"visitor {number}")
    floor.step()
    for _ in range(2 * BATCH_EVERY):
        visitors = [one for one in floor.scheduler.running if one.request.client.startswith("visitor")]
        floor.scheduler.finish(visitors[0])
        floor.step()
        assert len(floor.scheduler.running) == slots
        assert floor.scheduler.sequence_to_preempt() is None


def test_a_batch_in_the_only_slot_finishes_despite_interactive_requests():
    """It gets one start in eight; it is not preempted at once, or it would never finish."""
    floor = Floor(slots=1)
    submitted = floor.come("job", batch=True)
    floor.step()
    for _ in range(10):
        floor.come("visitor")
    for _ in range(5):
        floor.step()
    assert submitted in floor.scheduler.running
    assert submitted.num_output >= 5


def test_interactive_requests_are_not_preempted_for_another_clients_batch():
    """Only requests of the same priority are balanced."""
    floor = Floor(slots=2)
    for _ in range(2):
        floor.come("visitor")
    floor.step()
    floor.come("job", batch=True)
    assert floor.scheduler.sequence_to_preempt() is None


def test_high_priority_takes_a_slot_that_makes_clients_more_equal():
    """From a client of either priority; the newest is sent back, and its client keeps as many as the other gets."""
    for high in (False, True):
        floor = Floor(slots=3)
        first, second, third = (floor.come("greedy", high=high) for _ in range(3))
        floor.step()
        newcomer = floor.come("office", high=True)
        floor.come("office", high=True)
        floor.step()
        assert [submitted in floor.scheduler.running for submitted in (first, second, third)] == [True, True, False]
        assert newcomer in floor.scheduler.running
        assert floor.scheduler.sequence_to_preempt() is None


def test_high_priority_is_not_preempted_for_others():
    """Neither for an interactive request nor for a batch."""
    floor = Floor(slots=3)
    for _ in range(3):
        floor.come("office", high=True)
    floor.step()
    for number in range(8):
        floor.come("visitor" if number % 2 else "job", batch=number % 2 == 0)
        assert floor.scheduler.sequence_to_preempt() is None


def test_high_priority_is_computed_beyond_its_clients_share():
    """Every sequence of it is in every step, where those of an interactive client beyond the median wait."""
    for high in (False, True):
        floor = Floor(slots=8, budget=64)
        for _ in range(6):
            floor.come("office", high=high)
        for _ in range(2):
            floor.come("visitor")
        floor.step()
        clients = Counter(submitted.request.client for submitted in floor.step().decode)
        assert clients == {"office": 6 if high else 2, "visitor": 2}


def test_a_preempted_sequence_computes_everything_again():
    """What is not in whole blocks is lost; its tokens are kept."""
    floor = Floor(slots=1)
    submitted = floor.come(tokens=3)
    floor.step()
    floor.step()
    tokens = list(submitted.token_ids)
    floor.scheduler.preempt(submitted)
    assert (submitted.phase, submitted.slot, submitted.num_computed, submitted.token_ids) == (
        Phase.WAITING,
        -1,
        0,
        tokens,
    )
    assert submitted.blocks == []
    assert counts(floor.step()) == [len(tokens)]


def test_two_halves_are_the_whole_plan():
    """For any number of decode rows and chunks; a single row is split within its chunk."""
    for decoding in range(4):
        for reading in range(4):
            whole = Plan([sequence() for _ in range(decoding)], [(sequence(), 3) for _ in range(reading)])
            if len(whole.rows) < 2:
                continue
            first, second = whole.halves()
            assert first.rows
            assert second.rows
            assert first.decode + second.decode == whole.decode
            assert first.prefill + second.prefill == whole.prefill
    submitted = sequence()
    first, second = Plan(prefill=[(submitted, 5)]).halves()
    assert first.prefill + second.prefill == [(submitted, 2), (submitted, 3)]


@pytest.mark.parametrize(
    "fault", ["lost slot", "shared slot", "idle holder", "lost block", "wrong count", "wrong order", "wrong client"]
)
def test_check_finds_inconsistent_accounting(fault):
    """Of slots: lost, held twice, by one that does not run, miscounted, out of order, of nobody; a block of nobody."""
    floor = Floor()
    first, second = floor.come(), floor.come()
    floor.step()
    if fault == "lost slot":
        floor.scheduler.running.remove(first)
    elif fault == "shared slot":
        first.slot = second.slot
    elif fault == "lost block":
        first.blocks = []
    elif fault == "wrong count":
        first.request = replace(first.request, client="another")
    elif fault == "wrong order":
        floor.scheduler.running.reverse()
    elif fault == "wrong client":
        floor.scheduler._of_clients.clear()
    else:
        first.phase = Phase.WAITING
    assert floor.scheduler.check()


class TestBlocks:
    """A sequence runs only with blocks for all its tokens; where they run out, some give theirs up."""

    def test_a_sequence_grows_once_it_is_computed(self):
        """One that waits for its client's share holds what it had, and goes on when the others have gone."""
        floor = Floor(slots=4, budget=64)
        other = floor.come("other", tokens=2)
        waits = [floor.come("greedy", tokens=BLOCK - 1) for _ in range(3)][1:]
        for _ in range(3):
            floor.step()
        assert [len(submitted.blocks) for submitted in waits] == [1, 1]
        floor.scheduler.finish(other)
        for _ in range(3):
            floor.step()
        assert [len(submitted.blocks) for submitted in waits] == [2, 2]

    def test_a_sequence_waits_until_its_blocks_are_free(self):
        """And leaves one for each that runs to grow into; nothing behind it overtakes."""
        floor = Floor(blocks=6, budget=200)
        first, large, small = floor.come(tokens=3 * BLOCK), floor.come(tokens=2 * BLOCK), floor.come(tokens=1)
        floor.step()
        assert [submitted.slot for submitted in (first, large, small)] == [0, 1, -1]
        assert [len(submitted.blocks) for submitted in (first, large)] == [3, 2]
        floor.scheduler.finish(first)
        floor.step()
        assert small in floor.scheduler.running

    def test_a_sequence_grows_by_a_block_when_it_needs_one(self):
        """Not before, unless steps are computed ahead of its tokens; and never beyond the end of its answer."""
        for ahead, grown in ((0, [1, 1, 1, 2]), (1, [1, 1, 2, 2])):
            floor = Floor(ahead=ahead, budget=100)
            submitted = floor.come(tokens=BLOCK - 2, max_tokens=4)
            blocks = []
            for _ in range(4):
                floor.step()
                blocks.append(len(submitted.blocks))
            assert blocks == grown
        floor = Floor(ahead=1)
        short = floor.come(tokens=BLOCK - 1, max_tokens=1)
        floor.step()
        assert len(short.blocks) == 1

    def test_the_youngest_of_the_client_with_most_blocks_gives_them_up(self):
        """The client with fewer keeps its own, also the youngest of all."""
        floor = Floor(slots=8, blocks=10, budget=200)
        greedy = [floor.come("greedy", tokens=2 * BLOCK - 4, max_tokens=100) for _ in range(3)]
        floor.step()
        modest = floor.come("modest", tokens=BLOCK, max_tokens=100)
        floor.step()
        assert len(floor.scheduler.running) == 4
        for _ in range(40):
            floor.step()
        assert modest in floor.scheduler.running
        assert greedy[0] in floor.scheduler.running
        assert greedy[2] not in floor.scheduler.running

    @pytest.mark.parametrize("before", range(BATCH_EVERY))
    def test_a_batch_that_waits_for_blocks_keeps_no_greedy_client_in_them(self, before):
        """A visitor that needs few has what that client gives up, and the batch what becomes free besides."""
        floor = Floor(slots=16, blocks=24, budget=400)
        started(floor, before)
        greedy = [floor.come("greedy", tokens=2 * BLOCK, max_tokens=100) for _ in range(7)]
        floor.step()
        job = floor.come("job", tokens=18 * BLOCK, batch=True)
        floor.step()
        visitors = [floor.come(f"visitor {number}", tokens=BLOCK - 2) for number in range(3)]
        for _ in visitors:
            floor.step()
        assert all(visitor in floor.scheduler.running for visitor in visitors)
        assert greedy[0] in floor.scheduler.running
        for visitor in visitors:
            floor.scheduler.finish(visitor)
        while job not in floor.scheduler.running:
            floor.scheduler.finish(next(iter(floor.scheduler.running)))
            floor.step()

    def test_batches_give_up_their_blocks_first(self):
        """Beyond their share, whoever holds more."""
        floor = Floor(slots=8, blocks=10, budget=200)
        batch = [floor.come("job", tokens=BLOCK, max_tokens=100, batch=True) for _ in range(2)]
        chats = [floor.come("visitor", tokens=2 * BLOCK, max_tokens=100) for _ in range(2)]
        floor.step()
        assert {*floor.scheduler.running} == {*batch, *chats}
        preempted, preempt = [], floor.scheduler.preempt
        floor.scheduler.preempt = lambda submitted: preempted.append(submitted) or preempt(submitted)
        for _ in range(2 * BLOCK):
            floor.step()
        assert preempted[:2] == [batch[1], chats[1]]

    def test_the_one_that_started_first_always_finishes(self):
        """Two that each need all blocks: the second waits until the first has ended, and does not start in vain."""
        floor = Floor(slots=2, blocks=8, budget=200)
        rows = [floor.come(tokens=2 * BLOCK, max_tokens=6 * BLOCK) for _ in range(2)]
        starts = []
        floor.can_start = lambda submitted: starts.append(submitted) or True
        ended = []
        for _ in range(20 * BLOCK):
            floor.step()
            for submitted in [*floor.scheduler.running]:
                if submitted.num_output == submitted.sampling.max_tokens:
                    floor.scheduler.finish(submitted)
                    ended.append(submitted)
        assert ended == rows
        assert starts == [rows[0], rows[1], rows[1]]

    def test_a_client_that_holds_all_blocks_makes_room_for_another(self):
        """As it does for slots: the one that waits does not wait for the end of long answers."""
        floor = Floor(slots=8, blocks=12, budget=400)
        greedy = [floor.come("greedy", tokens=2 * BLOCK, max_tokens=100) for _ in range(4)]
        floor.step()
        assert len(floor.scheduler.running) == 4
        other = floor.come("other", tokens=3 * BLOCK)
        floor.step()
        assert other in floor.scheduler.running
        assert greedy[3] not in floor.scheduler.running
        assert greedy[0] in floor.scheduler.running

    def test_a_preempted_sequence_finds_its_whole_blocks_again(self):
        """If nobody needed their memory meanwhile; only the rest is computed again."""
        floor = Floor(budget=100)
        submitted = floor.come(tokens=2 * BLOCK + 3)
        floor.step()
        blocks = submitted.blocks
        assert floor.scheduler.preempt(submitted) == blocks[2:]
        assert counts(floor.step()) == [4]
        assert submitted.blocks[:2] == blocks[:2]

    def test_a_found_prefix_counts_once(self):
        """Sequences that share blocks in use fit where as many alone do not."""
        floor = Floor(slots=8, blocks=9, budget=400)
        first = floor.come(tokens=4 * BLOCK + 1)
        floor.step()
        floor.scheduler.register(first)
        others = [floor.come(tokens=4 * BLOCK + 1) for _ in range(2)]
        floor.step()
        assert all(other in floor.scheduler.running for other in others)
        assert floor.pool.used == 7
        assert others[0].num_computed == others[1].num_computed == 4 * BLOCK + 1

    @pytest.mark.parametrize("ahead", [1, 8, 15, 16, 17, 64])
    def test_sequences_that_grow_by_many_tokens_give_way_in_time(self, ahead):
        """However many drafts of a step hold, each finds the blocks that the next one may need."""
        for blocks, tokens in product((6, 12), range(1, 2 * BLOCK, 3)):
            floor = Floor(slots=4, blocks=blocks, budget=400, ahead=ahead, drafted=lambda: ahead)
            lengths = [tokens + 3 * number for number in range(4)]
            rows = [floor.come(str(one), tokens=one, max_tokens=blocks * BLOCK - one) for one in lengths]
            while any(one.num_output < one.sampling.max_tokens for one in rows):
                floor.step()
                for one in [*floor.scheduler.running]:
                    if one.num_output == one.sampling.max_tokens:
                        floor.scheduler.finish(one)
            assert floor.pool.used == 0

    @settings(deadline=None, max_examples=60)
    @given(st.integers(4, 12), st.integers(1, 4), st.sampled_from((0, 1, 8, 15, 16, 17, 64)), st.randoms())
    def test_every_sequence_ends_whatever_the_blocks(self, blocks, slots, ahead, rng):
        """With any lengths, clients and priorities, and blocks for one full sequence at least: nothing is stuck."""
        drafted = partial(rng.randint, 0, ahead if ahead > 1 else 0)
        floor = Floor(slots, rng.choice((3, 16, 100)), blocks=blocks, ahead=ahead, drafted=drafted)
        left = []
        for _ in range(rng.randint(1, 8)):
            tokens = rng.randint(1, (blocks - 1) * BLOCK)
            answer = rng.randint(1, blocks * BLOCK - tokens)
            left.append(floor.come(rng.choice("abc"), tokens=tokens, max_tokens=answer, batch=rng.random() < 0.3))
            for _ in range(rng.choice((0, 0, 1, 5))):
                self.step_to_ends(floor, left, rng)
        steps = 0
        while left:
            self.step_to_ends(floor, left, rng)
            steps += 1
            assert steps < 20_000
        assert not floor.scheduler.running
        assert floor.pool.used == 0

    @staticmethod
    def step_to_ends(floor, left, rng):
        """Step, and end what is complete; some are registered, as their first tokens are."""
        floor.step()
        for submitted in [*floor.scheduler.running]:
            if submitted.num_output == submitted.sampling.max_tokens:
                floor.scheduler.finish(submitted)
                left.remove(submitted)
            elif rng.random() < 0.2:
                floor.scheduler.register(submitted)


class TestShares:
    """A client that runs more sequences than the median client has as many as that one, or an eighth of the step."""

    @staticmethod
    def floor(overhead=8, **held):
        """Return a floor on which every client decodes so many sequences, and those by client.

        All have read as much as the one with most, so that none stands back for others.
        """
        floor = Floor(slots=32, budget=128, overhead=overhead)
        tokens = {client: 2 if many == max(held.values()) else 2 * max(held.values()) for client, many in held.items()}
        made = {
            client: [floor.come(client, tokens=tokens[client]) for _ in range(many)] for client, many in held.items()
        }
        floor.step()
        return floor, made

    def test_the_oldest_of_a_greedy_client_go_on(self):
        """As many as the others have, or as an eighth of the step's cost allows; always the same ones."""
        floor, made = self.floor(greedy=10, a=1, b=1)
        for _ in range(3):
            assert set(floor.step().decode) == {made["greedy"][0], *made["a"], *made["b"]}  # (8 + 3) // 8 = 1
        floor, made = self.floor(overhead=29, greedy=10, a=1, b=1)
        assert set(floor.step().decode) == {*made["greedy"][:4], *made["a"], *made["b"]}  # (29 + 3) // 8 = 4
        for _ in range(3):  # it has had more now
            assert set(floor.step().decode) == {*made["greedy"][:2], *made["a"], *made["b"]}  # (29 + 2) // 8 - 1 = 2

    def test_batches_of_many_clients_go_on_one_at_a_time_beside_a_chat(self):
        """In turn; all of them once the chat is over and none is expected, a few until then."""
        floor = Floor(slots=32, budget=128, overhead=4)
        made = [floor.come(client, tokens=2, max_tokens=5000, batch=True) for client in "abcdefgh"]
        floor.step()
        assert floor.step().decode == made
        chat = floor.come("i", tokens=2, max_tokens=50)
        assert floor.step().prefill == [(chat, 2)]
        others = [floor.step().decode for _ in range(8)]
        assert all(chat in decode and len(decode) == 2 for decode in others)
        assert {one for decode in others for one in decode} == {chat, *made}
        floor.scheduler.finish(chat)
        for _ in range(EXPECTED_FOR):
            assert len(floor.step().decode) == 4
        assert floor.step().decode == made

    def test_a_prompt_of_a_batch_hardly_lengthens_the_steps_of_a_chat(self):
        """It is read a block at a time, or as much as lengthens the step by an eighth."""
        for overhead, count in ((4, BLOCK), (256, 32)):
            floor = Floor(slots=32, budget=128, overhead=overhead)
            chat = floor.come("i", tokens=2, max_tokens=50)
            floor.step()
            batch = floor.come("a", tokens=100, batch=True)
            plans = [floor.step() for _ in range(3)]
            assert [(plan.decode, plan.prefill) for plan in plans] == [([chat], [(batch, count)])] * 3

    def test_a_batch_that_waits_for_its_grammar_does_not_take_the_turn_of_others(self):
        """Another one goes on in its place."""
        floor = Floor(slots=32, budget=128, overhead=4)
        mask = SimpleNamespace(ready=False, quick=False, step_seconds=0.0, usual_seconds=0.0, spent=0.0)
        chat = floor.come("i", tokens=2, max_tokens=50)
        waits = floor.come("a", tokens=1, batch=True, token_mask=mask)
        other = floor.come("b", tokens=2, batch=True)
        for _ in range(6):
            plan = floor.step()
        assert plan.decode == [chat, other]
        assert waits.num_computed == 1  # its prompt

    def test_a_batch_does_not_keep_the_chats_behind_it(self):
        """Whose turn comes among the starts: it starts without being computed, and they are."""
        floor = Floor(slots=32, budget=128, overhead=4)
        floor.come("z", tokens=2)
        floor.come("a", tokens=2, batch=True)
        floor.step()
        batch = floor.come("b", tokens=9, batch=True)
        chats = [floor.come(f"chat {number}", tokens=2) for number in range(2 * BATCH_EVERY)]
        plan = floor.step()
        assert {*chats} <= {one for one, _ in plan.prefill}
        assert batch in floor.scheduler.running

    def test_a_lone_client_is_not_held_back(self):
        """All its rows decode in every step, and again once the others have gone."""
        floor, made = self.floor(overhead=10, greedy=10, a=1)
        assert len(floor.step().decode) == 2
        floor.scheduler.finish(made["a"][0])
        assert floor.step().decode == made["greedy"]

    def test_the_steps_of_a_lone_client_are_short_while_others_are_expected(self, monkeypatch):
        """So many sequences as a step's fixed cost, and with their prompts twice that; after a while it has all."""
        monkeypatch.setattr("engine.schedule.step_shares.EXPECTED_FOR", 5)
        floor, made = self.floor(overhead=4, greedy=10, a=1)
        floor.step()
        floor.scheduler.finish(made["a"][0])
        late = floor.come("greedy", tokens=40)
        for step in range(5):
            plan = floor.step()
            reading = [] if step < 2 else [(late, 5)]
            assert (plan.decode, plan.prefill) == (made["greedy"][:4] if step < 2 else made["greedy"][7:10], reading)
            if step == 1:
                for one in made["greedy"][:7]:
                    floor.scheduler.finish(one)
        assert floor.step().decode == made["greedy"][7:10]
        assert late.phase is Phase.RUNNING

    def test_a_lone_client_that_has_seen_nobody_has_the_whole_step(self):
        """From the first step on."""
        floor, made = self.floor(overhead=2, greedy=10)
        floor.come("greedy", tokens=40)
        plan = floor.step()
        assert plan.decode == made["greedy"]
        assert [count for _, count in plan.prefill] == [40]

    def test_the_first_step_of_a_newcomer_is_shared(self):
        """Its prompt is not computed beside all rows of the client that had every step so far."""
        floor, made = self.floor(greedy=10)
        assert floor.step().decode == made["greedy"]
        first = floor.come("a", tokens=40)
        plan = floor.step()
        assert plan.prefill == [(first, 40)]
        assert plan.decode == made["greedy"][:6]  # (8 + 1 + 40) // 8 = 6

    def test_clients_that_are_alike_are_not_held_back(self):
        """Nor is the first of several answers more than others have, where it hardly lengthens the step."""
        floor, _ = self.floor(a=4, b=4, c=3)
        assert len(floor.step().decode) == 11
        floor, _ = self.floor(a=2, b=1, c=1, d=1, e=1, f=1, g=1, h=1)
        assert len(floor.step().decode) == 9  # (8 + 8) // 8 = 2

    @staticmethod
    def ahead():
        """Return a floor on which a client has had more lately than others, who may come again, and its sequences."""
        floor = Floor(slots=32, budget=64, overhead=8)
        greedy = [floor.come("greedy", tokens=2, max_tokens=100) for _ in range(10)]
        first = floor.come("a", tokens=2)
        for _ in range(2):
            floor.step()
        floor.scheduler.finish(first)
        for _ in range(5):
            assert floor.step().decode == greedy[:8]
        return floor, greedy

    def test_a_client_that_has_had_more_stands_back(self):
        """Its oldest sequence goes on in one step of so many, until the others have had as much."""
        floor, greedy = self.ahead()
        late = floor.come("b", tokens=2, max_tokens=100)
        assert floor.step().prefill == [(late, 2)]
        seen = [floor.step().decode for _ in range(2 * NOT_BACK)]
        assert seen.count([late]) == 2 * NOT_BACK - 2
        assert seen.count([greedy[0], late]) == 2

    def test_who_stands_back_goes_on_where_the_others_have_nothing_to_compute(self):
        """As when the last token of another is on its way from a device: no step is lost for a courtesy."""
        floor, greedy = self.ahead()
        late = floor.come("b", tokens=2, max_tokens=1)
        assert floor.step().prefill == [(late, 2)]
        assert floor.step().decode == greedy[:1]

    @pytest.mark.parametrize("length", [5000, 60])
    def test_in_the_long_run_shares_are_equal(self, length):
        """A client with many sequences computes as much as the others together, one at a time: always another one."""
        floor = Floor(slots=32, budget=64, overhead=8)
        for _ in range(10):
            floor.come("greedy", tokens=2, max_tokens=5000)
        computed = Counter()
        for number in range(4000):
            if not number % length:
                other = floor.come(f"other {number}", tokens=2, max_tokens=length)
            plan = floor.step()
            if other.remaining == 0:
                floor.scheduler.finish(other)
            if number >= 2000:
                computed.update(one.request.client == "greedy" for one in plan.decode)
        assert computed[True] == pytest.approx(computed[False], rel=0.05)

    def test_a_second_address_does_not_double_the_share(self):
        """The median counts, so that several greedy clients among more modest ones are held back together."""
        floor, made = self.floor(overhead=11, greedy=8, again=8, a=1, b=1, c=1)
        assert set(floor.step().decode) == {made[client][0] for client in made} | {
            made["greedy"][1]
        }  # (11 + 5) // 8 = 2

    def test_where_steps_cost_the_same_all_go_on(self):
        """With the fixed cost of a CUDA device, a full house of one client does not lengthen a step by an eighth."""
        floor, _ = self.floor(overhead=256, greedy=30, a=1)
        assert len(floor.step().decode) == 31

    def test_a_prompt_beyond_the_share_is_read_in_what_is_left(self):
        """A new request of a client with more than its share does not delay others' tokens by a whole prompt."""
        floor, made = self.floor(overhead=13, greedy=1, a=1, b=1)
        late = floor.come("greedy", tokens=40)
        plan = floor.step()
        assert plan.prefill == [(late, 1)]  # (13 + 3) // 8 = 2
        assert len(plan.decode) == 3
        for client in "ab":
            floor.scheduler.finish(made[client][0])
        assert floor.step().prefill == [(late, 2 * 13 - 1)]  # one of them for its row

    def test_a_prompt_within_the_share_is_read_whole(self):
        """A client's first sequence is never held back, whatever its prompt."""
        floor, _ = self.floor(greedy=10, a=1)
        late = floor.come("b", tokens=40)
        plan = floor.step()
        assert (late, 40) in plan.prefill

    def test_batches_are_beyond_the_share_first(self):
        """Of one client, its interactive sequence runs before texts of its batch that started earlier."""
        floor = Floor(slots=32, budget=64, overhead=0)
        for _ in range(3):
            floor.come("a", tokens=2, batch=True)
        floor.come("b", tokens=2)
        floor.step()
        chat = floor.come("a", tokens=2)
        floor.step()
        floor.step()
        assert chat in floor.step().decode


def test_a_request_that_finds_no_blocks_yet_does_not_hold_the_others_to_its_share():
    """It computes nothing yet, so that the rows of a batch within its share of the slots go on together."""
    floor = Floor(slots=8 * BATCH_EVERY, budget=64, overhead=8, blocks=16)
    for _ in range(8):
        floor.come("many", tokens=BLOCK - 4, max_tokens=100, batch=True)
    for _ in range(8):
        floor.step()
    waiting = floor.come("other", tokens=14 * BLOCK)
    plans = [floor.step() for _ in range(3)]
    assert waiting.phase is Phase.WAITING
    assert [len(plan.decode) for plan in plans] == [8, 8, 8]


def test_a_preempted_prompt_has_cost_what_was_computed_of_it():
    """Also where it is never computed again."""
    floor = Floor(budget=16)
    submitted = floor.come(tokens=40)
    floor.step()
    floor.step()
    floor.scheduler.preempt(submitted)
    assert submitted.num_computed == 0
    assert submitted.spent(1.0).prompt_tokens == 32
