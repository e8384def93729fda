"""The one thread that writes the parts of all streams."""

import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from edge import turns
from edge.stream_writer import StreamWriter
from edge.turns import Turn, Turns
from engine.backend import Generation
from engine.errors import DeadlineExceeded, ModelError
from engine.types import Completion, Piece, Timings
from tests.fakes import PATIENCE
from upstream.generation import UpstreamGeneration

HEAD, END, KEEP_ALIVE, LAST = b"[head]", b"[end]", b"[alive]", b"[last]"
COMPLETION = Completion("", "stop", 1, 1, Timings(0.0, 0.0, 0.0))


class Sink:
    """A client's end: what was written, by whom, and whether the client takes it."""

    def __init__(self, takes=True):
        self.takes, self.data, self.rest = takes, b"", b""
        self.parts, self.writers = 0, set()
        self.changed = threading.Condition()

    def send_part(self, data):
        with self.changed:
            self.writers.add(threading.current_thread().name)
            self.parts += 1
            if self.takes:
                self.data += data
            else:
                self.rest += data
            self.changed.notify_all()
            return self.takes

    def send_rest(self):
        with self.changed:
            self.writers.add(threading.current_thread().name)
            self.data, self.rest, self.takes = self.data + self.rest, b"", True
            self.changed.notify_all()

    def wait_for(self, data):
        with self.changed:
            assert self.changed.wait_for(lambda: self.data == data, PATIENCE), self.data


def generation_of(deadline=1e9, kind=Generation):
    return kind("id", 1, deadline, on_abort=lambda: None, clock=lambda: 0.0)


def events(generation, idle=None):
    """The events of a stream, as the routes make them."""
    yield HEAD
    try:
        for piece in generation.pieces(idle):
            yield piece.text.encode() if piece.text or piece.token_ids else KEEP_ALIVE
    except (ModelError, DeadlineExceeded) as error:
        yield type(error).__name__.encode()
        return
    yield END
    yield LAST


class Reading:
    """A stream that its own thread serves: `own` is what that thread writes itself."""

    def __init__(self, generation, sink, idle=1e6, writer=None, made=None):
        self.sink, self.own = sink, []
        written = (writer or StreamWriter()).written(made or events(generation), generation, sink, idle)
        self._pool = ThreadPoolExecutor(1, "own")
        self._done = self._pool.submit(self._serve, written)

    def _serve(self, written):
        for data in written:
            self.own.append(data)
            with self.sink.changed:
                self.sink.data += data.removeprefix(HEAD)
                self.sink.changed.notify_all()

    def wait_until_lent(self):
        """Wait until its own thread sleeps in the writer, behind whatever it has written itself."""
        end = time.monotonic() + PATIENCE
        while not self._lent():
            assert time.monotonic() < end
            time.sleep(0.001)

    def _lent(self):
        frames = [sys._current_frames().get(thread.ident) for thread in self._pool._threads]
        return any(frame is not None and frame.f_code.co_name == "lend" for frame in frames)

    def end(self):
        with self._pool:
            self._done.result(PATIENCE)
        return self.own


@pytest.mark.parametrize("kind", [Generation, UpstreamGeneration])
def test_parts_that_are_there_leave_with_the_beginning(kind):
    """In one write; the end, whose figures take time, comes behind it."""
    generation, sink = generation_of(kind=kind), Sink()
    for text in ("a", "b"):
        generation.push(Piece(text))
    generation.finish(COMPLETION)
    assert Reading(generation, sink).end() == [b"[head]ab", END + LAST]
    assert sink.parts == 0


def test_parts_are_written_by_the_shared_thread_and_the_ends_by_the_streams_own():
    """The own thread sends the beginning, and everything from the end of the answer on in one piece."""
    generation, sink = generation_of(), Sink()
    stream = Reading(generation, sink)
    stream.wait_until_lent()
    for text in ("a", "b"):
        generation.push(Piece(text))
        sink.wait_for(b"a" if text == "a" else b"ab")
    generation.finish(COMPLETION)
    assert stream.end() == [b"[head]", END + LAST]
    assert (sink.writers, sink.parts) == ({"stream-writer"}, 2)


def test_an_end_does_not_wait_for_the_work_of_others():
    """What holds the turns may take seconds, and would be a pause for the client that reads."""
    among, given = Turns(1, 5.0, late=0, longest=5.0), list[Turn]()
    generation, sink, began = generation_of(), Sink(), time.monotonic()
    among.begin("reader", given.append)
    with among.serving(given[0]):
        written = StreamWriter().written(events(generation), generation, sink, 1e6)
        assert next(written) == HEAD
        turns.leave()
        among.begin("other", given.append)  # and never ends
        generation.finish(COMPLETION)
        assert list(written) == [END + LAST]
    assert time.monotonic() - began < 5.0


def test_parts_of_a_server_elsewhere_are_written_by_the_thread_that_brings_them():
    """All that it has brought at once in one write; what came before the stream began is written by its own thread."""
    generation, sink = generation_of(kind=UpstreamGeneration), Sink()
    generation.push(Piece("a"))
    stream = Reading(generation, sink)
    sink.wait_for(b"a")
    stream.wait_until_lent()
    generation.push(Piece("b"))
    generation.push(Piece("c"))
    generation.flush()
    assert sink.data == b"abc"
    assert (sink.writers, sink.parts) == ({threading.current_thread().name}, 1)
    generation.finish(COMPLETION)
    assert stream.end() == [b"[head]a", END + LAST]


def test_parts_that_wait_leave_in_one_write():
    """However many have come while the thread was busy; those without text add nothing."""
    generation, sink, first = generation_of(), Sink(), threading.Event()

    def held():
        for event in events(generation):
            if event == b"a":
                assert first.wait(PATIENCE)
            yield event

    stream = Reading(generation, sink, made=held())
    for piece in (Piece("a"), Piece("b"), Piece("", token_ids=(1,)), Piece("c")):
        generation.push(piece)
    first.set()
    sink.wait_for(b"abc")
    generation.finish(COMPLETION)
    stream.end()
    assert sink.parts <= 2  # the first may have been alone


def test_silent_parts_are_not_sent():
    """A part without an event costs no write."""
    generation, sink = generation_of(), Sink()
    stream = Reading(generation, sink)
    generation.push(Piece("", token_ids=(1,)))
    generation.finish(COMPLETION)
    stream.end()
    assert sink.parts == 0


def test_a_client_that_does_not_read_is_waited_for_by_the_streams_own_thread():
    """The shared thread goes on with others, and comes back to this one once its client has taken everything."""
    writer = StreamWriter()
    slow, fast = generation_of(), generation_of()
    stuck, sink = Sink(takes=False), Sink()
    streams = [Reading(slow, stuck, writer=writer), Reading(fast, sink, writer=writer)]
    for stream in streams:
        stream.wait_until_lent()
    slow.push(Piece("a"))
    stuck.wait_for(b"a")
    assert len(stuck.writers) == 2
    fast.push(Piece("x"))
    sink.wait_for(b"x")
    slow.push(Piece("b"))
    stuck.wait_for(b"ab")
    for generation in (slow, fast):
        generation.finish(COMPLETION)
    for stream in streams:
        assert stream.end()[-1] == END + LAST
    assert sink.writers == {"stream-writer"}


def test_clients_that_do_not_read_are_left_to_their_threads_one_after_the_other(monkeypatch):
    """Those of a hundred streams would wake at once and hold the interpreter lock; the others are written meanwhile."""
    monkeypatch.setattr("edge.stream_writer.GIVE_BACK_EVERY", 1e6)
    writer = StreamWriter()
    writer._give_back_at = time.monotonic() + 1e6
    generations, sinks = [generation_of() for _ in range(6)], [Sink(takes=False) for _ in range(5)] + [Sink()]
    streams = [Reading(of, sink, writer=writer) for of, sink in zip(generations, sinks, strict=True)]
    for stream in streams:
        stream.wait_until_lent()
    for generation in generations:
        generation.push(Piece("a"))
        generation.push(Piece("b"))
    *stuck, fast = sinks
    fast.wait_for(b"ab")
    for given_back in range(len(stuck) + 1):
        fast.data = b""
        generations[-1].push(Piece("c"))
        fast.wait_for(b"c")
        assert len(writer._full) == len(stuck) - given_back
        for sink in stuck[:given_back]:
            sink.wait_for(b"ab")
        assert [sink.data for sink in stuck[given_back:]] == [b""] * (len(stuck) - given_back)
        writer._give_back_at = 0.0
    for generation in generations:
        generation.finish(COMPLETION)
    for stream in streams:
        assert stream.end()[-1] == END + LAST


@pytest.mark.parametrize("kind", [Generation, UpstreamGeneration])
def test_a_stream_is_kept_alive_also_while_it_is_not_given_back(monkeypatch, kind):
    """Its own thread sends what is left and goes on by itself; that it is given back later changes nothing."""
    monkeypatch.setattr("edge.stream_writer.GIVE_BACK_EVERY", 1e6)
    writer, generation, sink = StreamWriter(), generation_of(kind=kind), Sink(takes=False)
    stream = Reading(generation, sink, idle=0.5, writer=writer)
    writer._give_back_at = time.monotonic() + 1e6
    stream.wait_until_lent()
    generation.push(Piece("a"))
    if kind is UpstreamGeneration:
        generation.flush()
    with sink.changed:
        assert sink.changed.wait_for(lambda: sink.data.startswith(b"a" + KEEP_ALIVE), PATIENCE)
    writer._give_back_at = 0.0
    generation.push(Piece("b"))
    generation.finish(COMPLETION)
    stream.end()
    assert sink.data.replace(KEEP_ALIVE, b"") == b"ab" + END + LAST


def test_a_silent_stream_is_kept_alive_by_its_own_thread():
    """As often as nothing has come for the time given."""
    generation, sink = generation_of(), Sink()
    stream = Reading(generation, sink, idle=0.0)
    with sink.changed:
        assert sink.changed.wait_for(lambda: sink.data.startswith(KEEP_ALIVE * 3), PATIENCE)
    generation.push(Piece("a"))
    generation.finish(COMPLETION)
    stream.end()
    assert sink.data.replace(KEEP_ALIVE, b"") == b"a" + END + LAST
    assert sink.data.endswith(END + LAST)


def test_an_error_of_the_answer_is_the_streams_end():
    """What has come before it is sent first."""
    generation, sink = generation_of(), Sink()
    stream = Reading(generation, sink)
    generation.push(Piece("a"))
    generation.fail(ModelError("It failed."))
    stream.end()
    assert sink.data == b"aModelError"


def test_a_deadline_ends_a_stream_that_its_engine_forgot():
    """Its own thread looks when the deadline has come."""
    generation, sink = generation_of(deadline=-10.0), Sink()
    assert Reading(generation, sink).end() == [b"[head]", b"DeadlineExceeded"]


@pytest.mark.parametrize("where", ["building", "sending"])
def test_an_unexpected_error_is_raised_in_the_streams_own_thread(where):
    """The shared thread survives it."""
    writer = StreamWriter()

    class Gone(Sink):
        def send_part(self, data):
            raise BrokenPipeError

    def broken(generation):
        yield HEAD
        for _ in generation.pieces():
            raise BrokenPipeError

    generation = generation_of()
    made = broken(generation) if where == "building" else events(generation)
    stream = Reading(generation, Sink() if where == "building" else Gone(), writer=writer, made=made)
    stream.wait_until_lent()
    generation.push(Piece("a"))
    with pytest.raises(BrokenPipeError):
        stream.end()
    another, sink = generation_of(), Sink()
    stream = Reading(another, sink, writer=writer)
    another.push(Piece("b"))
    sink.wait_for(b"b")
    another.finish(COMPLETION)
    stream.end()


def test_events_that_end_before_their_answer_end_the_stream():
    """Whatever still comes of the answer."""
    generation, sink = generation_of(), Sink()
    stream = Reading(generation, sink, made=iter([b"[head]", b"a"]))
    stream.wait_until_lent()
    generation.push(Piece("x"))
    generation.push(Piece("y"))
    assert stream.end() == [b"[head]"]
    assert sink.data == b"a"


@pytest.mark.parametrize("kind", [Generation, UpstreamGeneration])
def test_many_streams_lose_nothing_and_keep_their_order(kind):
    """With clients that stop reading now and then, keep-alives, and engines that push from several threads."""
    writer, chance = StreamWriter(), random.Random(5)
    generations = [generation_of(kind=kind) for _ in range(24)]
    sinks = [Sink() for _ in generations]
    idles = [0.0 if number % 4 == 0 else 1e6 for number in range(len(generations))]
    streams = [Reading(g, s, i, writer) for g, s, i in zip(generations, sinks, idles, strict=True)]

    def engine(mine):
        for number in range(100):
            for at in mine:
                generations[at].push(Piece(f"<{number}>"))
                if kind is UpstreamGeneration:
                    generations[at].flush()
                if chance.random() < 0.1:
                    sinks[at].takes = False
        for at in mine:
            generations[at].finish(COMPLETION)

    with ThreadPoolExecutor(3) as engines:
        list(engines.map(engine, (range(start, len(generations), 3) for start in range(3))))
    expected = b"".join(b"<%d>" % number for number in range(100)) + END + LAST
    for stream, sink in zip(streams, sinks, strict=True):
        stream.end()
        assert sink.data.replace(KEEP_ALIVE, b"") == expected
