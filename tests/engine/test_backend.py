"""The mailbox between the engine and a client: the first end counts, nobody waits for ever, order is kept."""

import threading

import pytest

from engine.backend import DEADLINE_GRACE, Generation
from engine.errors import DeadlineExceeded, ModelError, Overloaded, RequestAborted
from engine.types import Completion, Piece, Timings
from tests.fakes import PATIENCE, Clock

DONE = Completion("ab", "stop", 3, 2, Timings(0.0, 0.1, 0.2))


class Aborts:
    """Counts the words left for the engine."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1


def mailbox(clock=None, on_abort=lambda: None):
    """Return a generation due in a long time, on a clock that stands still."""
    clock = clock or Clock()
    return Generation("r", 3, clock() + PATIENCE, on_abort, clock)


def test_parts_arrive_in_order_and_then_the_end():
    """What was pushed before the reader came is there too."""
    generation = mailbox()
    generation.push(Piece("a"))
    stream = generation.pieces()
    assert next(stream).text == "a"
    generation.push(Piece("b"))
    generation.finish(DONE)
    assert [piece.text for piece in stream] == ["b"]
    assert generation.result() is DONE


def test_a_reader_is_woken_by_another_thread():
    """It waits without polling, for parts and for the end."""
    generation, seen = mailbox(), []
    reader = threading.Thread(target=lambda: seen.extend(piece.text for piece in generation.pieces()))
    reader.start()
    generation.push(Piece("a"))
    generation.finish(DONE)
    reader.join(PATIENCE)
    assert seen == ["a"]


def test_the_first_end_counts():
    """A late failure, or a late success, changes nothing."""
    ended, failed = mailbox(), mailbox()
    ended.finish(DONE)
    ended.fail(ModelError("late"))
    assert ended.result() is DONE
    failed.fail(Overloaded("evicted", 7))
    failed.finish(DONE)
    with pytest.raises(Overloaded):
        failed.result()


def test_a_stream_raises_the_error_it_ends_with():
    """After the parts that came before it."""
    generation = mailbox()
    generation.push(Piece("a"))
    generation.fail(ModelError("x"))
    stream = generation.pieces()
    assert next(stream).text == "a"
    with pytest.raises(ModelError):
        next(stream)


def test_silence_yields_an_empty_part():
    """So that a stream can be kept alive."""
    stream = mailbox().pieces(idle=0.0)
    assert [next(stream).text, next(stream).text] == ["", ""]


def test_a_reader_that_stops_early_aborts():
    """Leaving the loop is leaving the answer; after the end it is nothing."""
    aborts = Aborts()
    generation = mailbox(on_abort=aborts)
    generation.push(Piece("a"))
    stream = generation.pieces()
    next(stream)
    stream.close()
    assert (generation.aborted, aborts.count) == (True, 1)
    finished = mailbox(on_abort=aborts)
    finished.finish(DONE)
    list(finished.pieces())
    assert aborts.count == 1


def test_an_abort_is_asked_for_once():
    """However often it is called, and not at all once the answer has ended."""
    aborts = Aborts()
    generation = mailbox(on_abort=aborts)
    generation.abort()
    generation.abort()
    assert aborts.count == 1
    generation.fail(RequestAborted("stopped"))
    ended = mailbox(on_abort=aborts)
    ended.finish(DONE)
    ended.abort()
    assert (aborts.count, ended.aborted) == (1, False)


@pytest.mark.parametrize("read", ["result", "stream"])
def test_past_its_deadline_a_request_ends_itself(read):
    """An engine that no longer moves cannot keep a client waiting; it is told to stop, should it move again."""
    clock, aborts = Clock(), Aborts()
    generation = mailbox(clock, aborts)
    clock.advance(PATIENCE + DEADLINE_GRACE)
    with pytest.raises(DeadlineExceeded):
        generation.result() if read == "result" else next(generation.pieces())
    assert (generation.aborted, aborts.count) == (True, 1)
    generation.finish(DONE)
    with pytest.raises(DeadlineExceeded):
        generation.result()


def test_an_aborted_completion_is_no_answer():
    """A backend that ends so says that the request was stopped."""
    generation = mailbox()
    generation.finish(Completion("a", "abort", 3, 1, Timings(0.0, None, 0.2)))
    with pytest.raises(RequestAborted):
        generation.result()
