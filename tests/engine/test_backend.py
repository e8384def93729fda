"""Generations and mailboxes: the first end counts, every wait ends, several answers are read in order."""

import gc
import threading
import weakref
from contextlib import suppress

import pytest

from engine.backend import DEADLINE_GRACE, Generation, Mailbox
from engine.errors import DeadlineExceeded, ModelError, Overloaded, RequestAborted
from engine.types import Completion, Piece, QueuePosition, Timings
from tests.fakes import PATIENCE, Clock

DONE = Completion("ab", "stop", 3, 2, Timings(0.0, 0.1, 0.2))


class Aborts:
    """Counts the calls of on_abort."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


def generation_of(clock=None, on_abort=lambda: None):
    """Return a generation due in a long time, on a clock that stands still."""
    clock = clock or Clock()
    return Generation("r", 3, clock() + PATIENCE, on_abort, clock)


def test_parts_arrive_in_order_and_then_the_end():
    """Also those that were pushed before the consumer started to read."""
    generation = generation_of()
    generation.push(Piece("a"))
    stream = generation.pieces()
    assert next(stream).text == "a"
    generation.push(Piece("b"))
    generation.finish(DONE)
    assert [piece.text for piece in stream] == ["b"]
    assert generation.result() is DONE


def test_a_reader_is_woken_by_another_thread():
    """It waits without polling, for parts and for the end."""
    generation, seen = generation_of(), []
    reader = threading.Thread(target=lambda: seen.extend(piece.text for piece in generation.pieces()))
    reader.start()
    generation.push(Piece("a"))
    generation.finish(DONE)
    reader.join(PATIENCE)
    assert seen == ["a"]


def test_a_consumer_that_is_told_is_called_for_each_part_and_the_end():
    """It reads without waiting: an empty part stands for none."""
    generation, told = generation_of(), []
    generation.push(Piece("a"))
    generation.tell(lambda: told.append(generation.ready))
    stream = generation.pieces()
    assert (generation.reading, generation.ready) == (False, True)
    assert [next(stream).text, next(stream).text] == ["a", ""]
    assert (generation.reading, generation.ready) == (True, False)
    generation.push(Piece("b"))
    generation.finish(DONE)
    assert told == [True, True]
    assert [piece.text for piece in stream] == ["b"]


def test_a_consumer_that_is_told_hears_of_the_deadline():
    """Whoever looks past it ends the answer."""
    clock, told = Clock(), []
    generation = generation_of(clock)
    generation.tell(lambda: told.append(generation.done))
    assert generation.expire() > 0
    assert told == []
    clock.advance(PATIENCE + DEADLINE_GRACE)
    assert generation.expire() <= 0
    assert told == [True]
    with pytest.raises(DeadlineExceeded):
        list(generation.pieces())


def test_the_first_end_counts():
    """A late failure, or a late success, changes nothing."""
    ended, failed = generation_of(), generation_of()
    ended.finish(DONE)
    ended.fail(ModelError("late"))
    assert ended.result() is DONE
    failed.fail(Overloaded("evicted", 7))
    failed.finish(DONE)
    with pytest.raises(Overloaded):
        failed.result()


def test_a_failed_answer_that_was_read_is_freed_at_once():
    """Its error, which refers to the frames that it was raised in, keeps neither itself nor the answer alive."""
    generation = generation_of()
    generation.fail(ModelError("x"))
    with suppress(ModelError):
        generation.result()
    freed = weakref.ref(generation)
    gc.disable()
    try:
        del generation
        assert freed() is None
    finally:
        gc.enable()


def test_a_stream_raises_the_error_it_ends_with():
    """After the parts that came before it."""
    generation = generation_of()
    generation.push(Piece("a"))
    generation.fail(ModelError("x"))
    stream = generation.pieces()
    assert next(stream).text == "a"
    with pytest.raises(ModelError):
        next(stream)


def test_silence_yields_an_empty_part():
    """A stream sends a keep-alive then."""
    stream = generation_of().pieces(idle=0.0)
    assert [next(stream).text, next(stream).text] == ["", ""]


def test_a_reader_that_stops_early_aborts():
    """Leaving the loop aborts the answer; after the end it has no effect."""
    aborts = Aborts()
    generation = generation_of(on_abort=aborts)
    generation.push(Piece("a"))
    stream = generation.pieces()
    next(stream)
    stream.close()
    assert (generation.aborted, aborts.count) == (True, 1)
    finished = generation_of(on_abort=aborts)
    finished.finish(DONE)
    list(finished.pieces())
    assert aborts.count == 1


def test_an_abort_is_requested_once():
    """on_abort is called once, however often abort is, and not at all after the end."""
    aborts = Aborts()
    generation = generation_of(on_abort=aborts)
    generation.abort()
    generation.abort()
    assert aborts.count == 1
    generation.fail(RequestAborted("stopped"))
    ended = generation_of(on_abort=aborts)
    ended.finish(DONE)
    ended.abort()
    assert (aborts.count, ended.aborted) == (1, False)


@pytest.mark.parametrize("read", ["result", "stream"])
def test_past_its_deadline_a_request_ends_itself(read):
    """A stalled engine cannot keep a client waiting; the request is aborted in case the engine continues."""
    clock, aborts = Clock(), Aborts()
    generation = generation_of(clock, aborts)
    clock.advance(PATIENCE + DEADLINE_GRACE)
    with pytest.raises(DeadlineExceeded):
        generation.result() if read == "result" else next(generation.pieces())
    assert (generation.aborted, aborts.count) == (True, 1)
    generation.finish(DONE)
    with pytest.raises(DeadlineExceeded):
        generation.result()


def test_an_aborted_completion_is_no_answer():
    """The consumer gets RequestAborted."""
    generation = generation_of()
    generation.finish(Completion("a", "abort", 3, 1, Timings(0.0, None, 0.2)))
    with pytest.raises(RequestAborted):
        generation.result()


# --- several answers of one request ---


def test_ends_are_read_in_the_order_in_which_they_come():
    """One thread reads all answers; parts of those that do not stream are not read."""
    mailbox, generations = Mailbox(), [generation_of() for _ in range(3)]
    for number, generation in enumerate(generations):
        mailbox.add(number, generation, streaming=False)
    for number in (2, 0, 1):
        generations[number].push(Piece("a"))
        generations[number].finish(DONE)
    assert len(mailbox) == 3
    assert [mailbox.wait(PATIENCE) for _ in generations] == [(2, None), (0, None), (1, None)]
    assert len(mailbox) == 0


def test_parts_are_read_in_the_order_in_which_they_come():
    """Those that were there before the mailbox first."""
    mailbox, first, second = Mailbox(), generation_of(), generation_of()
    first.push(Piece("a"))
    mailbox.add(1, first, streaming=True)
    mailbox.add(2, second, streaming=True)
    assert first.reading
    second.push(Piece("b"))
    first.push(Piece("c"))
    first.finish(DONE)
    second.push(Piece("d"))
    events = [mailbox.wait(PATIENCE) for _ in range(5)]
    assert events == [(1, Piece("a")), (2, Piece("b")), (1, Piece("c")), (1, None), (2, Piece("d"))]
    assert len(mailbox) == 1


def test_an_answer_that_has_ended_already_is_read_at_once():
    """The end may come before the mailbox listens."""
    mailbox, generation = Mailbox(), generation_of()
    generation.fail(ModelError("x"))
    mailbox.add(0, generation, streaming=False)
    assert mailbox.wait(PATIENCE) == (0, None)


def test_a_wait_ends_when_it_is_woken_and_when_its_time_is_up():
    """In both cases nothing has happened to an answer."""
    mailbox = Mailbox()
    mailbox.add(0, generation_of(), streaming=False)
    assert mailbox.wait(0.0) is None
    mailbox.wake()
    assert mailbox.wait(PATIENCE) is None
    assert len(mailbox) == 1


def test_another_thread_wakes_a_waiting_mailbox():
    """The reader waits without polling."""
    mailbox, generation, seen = Mailbox(), generation_of(), []
    mailbox.add(7, generation, streaming=False)
    reader = threading.Thread(target=lambda: seen.append(mailbox.wait(PATIENCE)))
    reader.start()
    generation.finish(DONE)
    reader.join(PATIENCE)
    assert seen == [(7, None)]


def test_a_mailbox_ends_answers_that_are_past_their_deadline():
    """A stalled engine cannot keep one of several answers waiting, nor does its late end count."""
    clock, aborts = Clock(), Aborts()
    mailbox, late = Mailbox(), generation_of(clock, aborts)
    mailbox.add(0, late, streaming=False)
    clock.advance(PATIENCE + DEADLINE_GRACE)
    assert mailbox.wait(PATIENCE) == (0, None)
    assert (late.aborted, aborts.count) == (True, 1)
    late.finish(DONE)
    with pytest.raises(DeadlineExceeded):
        late.result()


def test_an_answer_says_where_it_waits():
    """By the function that the backend gave it; without one it waits nowhere."""
    assert generation_of().queue_position() is None
    placed = Generation("r", 3, PATIENCE, lambda: None, Clock(), lambda: QueuePosition(2, 1.5))
    assert placed.queue_position() == QueuePosition(2, 1.5)
