"""Streams of the page that outlive their connection: read again by their client alone, for a minute, within bounds."""

import json
import re
import threading
import time
from dataclasses import replace

import pytest

from app_production import create_app
from config import load_settings
from edge.services import KEY
from engine.backend import Generation
from engine.errors import Overloaded
from engine.types import Piece
from routes.resumable import KEPT_SECONDS, MAX_OF_CLIENT, MAX_STREAMS, ResumableStreams
from tests.fakes import PATIENCE, Clock

TEXT = "/api/v1/text/generate"
ADDRESS = "/api/v1/streams/{}"
ELSEWHERE = {"REMOTE_ADDR": "203.0.113.9"}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def streams(app, clock):
    """The streams of the application, looked after by the test alone."""
    found = ResumableStreams(clock=clock)
    app.extensions[KEY] = replace(app.extensions[KEY], streams=found)
    return found


@pytest.fixture
def avibe(avibe):
    """A model that holds its answers open, each of which begins at once."""
    submit, avibe.hold = avibe.submit, True

    def begun(request):
        generation = submit(request)
        generation.push(Piece("One "))
        return generation

    avibe.submit = begun
    return avibe


def ask(client, request_id="mine", **headers):
    """Begin a resumable stream; return its response, its id and its events."""
    body = {"prompt": "x", "stream": True}
    found = client.post(TEXT, json=body, headers={"X-Resumable": "1", "X-Request-ID": request_id, **headers})
    return found, found.headers["X-Stream-Id"], found.iter_encoded()


def read_again(client, stream_id, **options):
    """Return the response to reading a stream again, to its end."""
    return client.get(ADDRESS.format(stream_id), buffered=True, **options)


def texts(events):
    """Return the pieces of text and the other objects in events."""
    found = [json.loads(line[6:]) for line in b"".join(events).decode().split("\n") if line.startswith("data: ")]
    return "".join(one["text"] for one in found if "text" in one), [one for one in found if "text" not in one]


def leave_amid(client, avibe):
    """Read the beginning of an answer and leave; return the stream's id."""
    response, stream_id, events = ask(client)
    assert texts([next(events)])[0] == "One "
    response.close()
    return stream_id


def test_an_answer_goes_on_without_its_reader_and_is_read_again_from_its_beginning(client, avibe, streams):
    """What came before, in between and after is there once, with the figures at the end."""
    stream_id = leave_amid(client, avibe)
    assert avibe.aborted == []
    avibe.push("mine", "two ")
    streams.look()
    again = client.get(ADDRESS.format(stream_id))
    assert (again.status_code, again.headers["X-Stream-Id"]) == (200, stream_id)
    events = again.iter_encoded()
    assert texts([next(events)])[0] == "One two "
    avibe.text = "three."
    avibe.finish("mine")
    text, (last,) = texts(events)
    assert text == "three."
    assert (last["success"], last["request_id"]) == (True, "mine")
    again.close()
    assert avibe.aborted == []


def test_an_answer_that_ended_meanwhile_is_read_again_too(client, avibe, streams, clock):
    """Its work is over as soon as it has ended; it may be read several times, until its minute is over."""
    stream_id = leave_amid(client, avibe)
    avibe.text = "and all."
    avibe.finish("mine")
    streams.look()
    for _ in range(2):
        clock.advance(KEPT_SECONDS - 1)
        streams.look()
        text, (last,) = texts([read_again(client, stream_id).data])
        assert (text, last["success"]) == ("One and all.", True)
    assert streams.size()[0] == 1
    clock.advance(KEPT_SECONDS)
    streams.look()
    assert read_again(client, stream_id).status_code == 404
    assert streams.size() == (0, 0)


def test_a_client_that_is_gone_for_good_ends_the_work_after_a_minute(client, avibe, streams, clock):
    """Not before; then nobody can read it again."""
    stream_id = leave_amid(client, avibe)
    clock.advance(KEPT_SECONDS - 1)
    streams.look()
    assert avibe.aborted == []
    clock.advance(1)
    streams.look()
    assert avibe.aborted == ["mine"]
    assert read_again(client, stream_id).status_code == 404
    assert streams.size() == (0, 0)


def test_who_comes_back_in_time_has_another_minute(client, avibe, streams, clock):
    """The minute begins when a reader leaves."""
    stream_id = leave_amid(client, avibe)
    clock.advance(KEPT_SECONDS - 1)
    again = client.get(ADDRESS.format(stream_id))
    assert next(again.iter_encoded())
    clock.advance(KEPT_SECONDS)
    streams.look()
    again.close()
    clock.advance(KEPT_SECONDS - 1)
    streams.look()
    assert avibe.aborted == []


def test_nobody_else_can_read_or_stop_it(client, avibe, streams):
    """Another address is told the same as of an id that does not exist."""
    stream_id = leave_amid(client, avibe)
    for call in (client.get, client.delete):
        other = call(ADDRESS.format(stream_id), environ_base=ELSEWHERE, headers={"X-Request-ID": "r"})
        none = call(ADDRESS.format("x" * 32), headers={"X-Request-ID": "r"})
        assert (other.status_code, other.json) == (none.status_code, none.json)
        assert other.json["error"] == "not_found"
    assert avibe.aborted == []
    assert client.get(ADDRESS.format(stream_id)).status_code == 200


def test_ids_cannot_be_guessed(client, avibe, streams):
    """Each has 192 random bits, also for the same request."""
    ids = {ask(client, f"r{number}")[1] for number in range(5)}
    assert len(ids) == 5
    assert all(len(one) == 32 for one in ids)


def test_a_stream_that_is_still_read_is_not_taken_away(client, avibe, streams, monkeypatch):
    """As by the same page in another tab, which is told to try again in a moment."""
    monkeypatch.setattr("routes.resumable.HANDOVER_SECONDS", 0.0)
    response, stream_id, events = ask(client)
    next(events)
    busy = client.get(ADDRESS.format(stream_id))
    assert (busy.status_code, busy.json["error"], busy.headers["Retry-After"]) == (503, "overloaded", "1")
    avibe.text = "two."
    avibe.finish("mine")
    assert texts(events)[0] == "two."
    response.close()
    assert texts([read_again(client, stream_id).data])[0] == "One two."


class Nothing:
    """An answer of which nothing is needed but its events."""

    only = object()

    def abort(self):
        """Stop nothing."""

    def close(self):
        """Give nothing back."""


class Taker(threading.Thread):
    """Takes a stream; taken: what it was given, refused: whether it was told to try again."""

    def __init__(self, kept, stream):
        super().__init__(daemon=True)
        self._kept, self._stream, self.taken, self.refused = kept, stream, None, False
        self.start()

    def run(self):
        try:
            self.taken = self._kept.take(self._stream.owner, self._stream.id)
        except Overloaded:
            self.refused = True


def waits_for(stream, before=None):
    """Wait until somebody else than before waits for a stream; return who."""
    given_up = time.monotonic() + PATIENCE
    while stream.next_reader in (None, before):
        assert time.monotonic() < given_up
        time.sleep(0.001)
    return stream.next_reader


def test_only_the_last_who_asks_for_a_stream_waits_for_it(monkeypatch):
    """However many ask for it, one of them keeps a thread; the others are told to try again."""
    monkeypatch.setattr("routes.resumable.HANDOVER_SECONDS", PATIENCE)
    kept = ResumableStreams()
    stream, reader = kept.open("me", iter([b"data: 1\n\n"]), Nothing())
    assert next(kept.read(stream, reader))
    takers, waiting = [], None
    for _ in range(5):
        takers.append(Taker(kept, stream))
        waiting = waits_for(stream, waiting)
    for taker in takers[:-1]:
        taker.join(PATIENCE)
        assert taker.refused
    assert takers[-1].is_alive()
    kept.leave(stream, reader)
    takers[-1].join(PATIENCE)
    assert takers[-1].taken == (stream, waiting)


def test_few_requests_wait_for_streams(monkeypatch):
    """Each keeps a thread; beyond the bound it is told to try again at once, and later it waits as ever."""
    monkeypatch.setattr("routes.resumable.HANDOVER_SECONDS", PATIENCE)
    monkeypatch.setattr("routes.resumable.MAX_WAITING", 1)
    kept = ResumableStreams()
    first, second = (kept.open("me", iter([b"data: 1\n\n"]), Nothing()) for _ in range(2))
    for stream, reader in (first, second):
        assert next(kept.read(stream, reader))
    taker = Taker(kept, first[0])
    waits_for(first[0])
    with pytest.raises(Overloaded):
        kept.take("me", second[0].id)
    kept.leave(*first)
    taker.join(PATIENCE)
    assert taker.taken[0] is first[0]
    later = Taker(kept, second[0])
    waits_for(second[0])
    kept.leave(*second)
    later.join(PATIENCE)
    assert later.taken[0] is second[0]


def test_it_is_stopped_by_its_client(client, avibe, streams):
    """With a reader and without; the work ends at once."""
    stream_id = leave_amid(client, avibe)
    assert client.delete(ADDRESS.format(stream_id)).json == {"success": True}
    assert avibe.aborted == ["mine"]
    assert client.delete(ADDRESS.format(stream_id)).status_code == 404
    response, stream_id, events = ask(client, "other")
    next(events)
    assert client.delete(ADDRESS.format(stream_id)).status_code == 200
    avibe.wait_for(lambda backend: backend.aborted == ["mine", "other"])
    assert texts(events)[1][0]["error"] == "request_aborted"
    response.close()
    assert streams.size() == (0, 0)


def test_a_failure_is_read_again_as_well(client, avibe, streams):
    """The event of the failure is kept like any other."""
    from engine.errors import ModelError

    stream_id = leave_amid(client, avibe)
    avibe.fail("mine", ModelError("The model failed on this request."))
    streams.look()
    text, (failure,) = texts([read_again(client, stream_id).data])
    assert (text, failure["error"]) == ("One ", "model_error")


def test_a_stream_that_was_never_read_ends_with_its_connection(clock):
    """Nobody has its id."""
    streams, answer = ResumableStreams(clock=clock), Answer()
    streams.leave(*streams.open("a", answer.events(), answer))
    assert (answer.closed, streams.size()) == (1, (0, 0))


@pytest.mark.parametrize("waiting", [False, True])
def test_who_leaves_before_the_first_event_ends_the_work(clock, waiting):
    """As the stop button does while the model reads: the id comes with the first event, so nobody has it."""
    streams, answer = ResumableStreams(clock=clock), Answer()

    def events():
        if waiting:  # for the first one
            streams.interrupt(stream, reader)
        yield from answer.events()

    stream, reader = streams.open("a", events(), answer)
    answer.only.push(Piece("one"))
    if not waiting:
        streams.interrupt(stream, reader)
    assert list(streams.read(stream, reader)) == [b"one"] * waiting
    streams.leave(stream, reader)
    assert (answer.closed, streams.size()) == (1, (0, 0))


def test_streams_that_do_not_ask_for_it_end_with_their_connection(client, avibe, streams):
    """As promised to every program."""
    response = client.post(TEXT, json={"prompt": "x", "stream": True}, headers={"X-Request-ID": "mine"})
    assert "X-Stream-Id" not in response.headers
    next(response.iter_encoded())
    response.close()
    assert avibe.aborted == ["mine"]


def test_a_client_has_a_few_streams_and_the_oldest_that_ended_gives_way(client, avibe, streams):
    """Where all of them go on, one more ends with its connection like any other."""
    begun = [ask(client, f"r{number}") for number in range(MAX_OF_CLIENT)]
    body, headers = {"prompt": "x", "stream": True}, {"X-Resumable": "1", "X-Request-ID": "more"}
    assert "X-Stream-Id" not in client.post(TEXT, json=body, headers=headers).headers
    assert "X-Stream-Id" in client.post(TEXT, json=body, headers=headers, environ_base=ELSEWHERE).headers
    avibe.finish("r0")
    response, first, events = begun[0]
    assert list(events)
    response.close()
    assert read_again(client, first).status_code == 200
    assert "X-Stream-Id" in client.post(TEXT, json=body, headers=headers).headers
    assert read_again(client, first).status_code == 404


class Answer:
    """An answer with a generation of its own, which a test fills."""

    def __init__(self):
        self.only = Generation("r", 1, 1e9, lambda: None, clock=lambda: 0.0)
        self.closed = 0

    def abort(self):
        pass

    def close(self):
        self.closed += 1

    def events(self):
        for piece in self.only.pieces(0.01):
            yield piece.text.encode()


def test_all_streams_together_are_bounded(clock):
    """What has ended goes first, then the stream that would be too much: it goes on, and ends with its connection."""
    streams = ResumableStreams(max_bytes=100, clock=clock)
    ended, growing = Answer(), Answer()
    stream, reader = streams.open("a", iter([b"x" * 60]), ended)
    assert list(streams.read(stream, reader)) == [b"x" * 60]
    streams.leave(stream, reader)
    assert (streams.size(), ended.closed) == ((1, 60), 1)
    other, other_reader = streams.open("b", growing.events(), growing)
    events = streams.read(other, other_reader)
    growing.only.push(Piece("y" * 50))
    assert next(events) == b"y" * 50
    assert streams.size() == (1, 50)
    growing.only.push(Piece("y" * 51))
    assert next(events) == b"y" * 51
    assert streams.size() == (0, 0)
    assert streams.take("b", other.id) is None
    streams.leave(other, other_reader)
    assert growing.closed == 1


def test_all_clients_together_have_a_bounded_number(clock):
    """Whoever comes then has a stream that ends with its connection."""
    streams = ResumableStreams(clock=clock)
    answers = [Answer() for _ in range(MAX_STREAMS)]
    assert all(streams.open(str(number), iter(()), answer) for number, answer in enumerate(answers))
    assert streams.open("one more", iter(()), Answer()) is None


def test_a_client_that_was_seen_to_leave_is_read_no_further(clock):
    """Its reader stops at the next event, and its minute has begun."""
    streams, answer = ResumableStreams(clock=clock), Answer()
    stream, reader = streams.open("a", answer.events(), answer)
    events = streams.read(stream, reader)
    answer.only.push(Piece("one"))
    assert next(events) == b"one"
    streams.interrupt(stream, reader)
    clock.advance(KEPT_SECONDS)
    answer.only.push(Piece("two"))
    assert list(events) == []
    streams.leave(stream, reader)
    streams.look()
    assert (answer.closed, streams.size()) == (1, (0, 0))


def test_the_deadline_holds_without_a_reader(clock):
    """An answer that is stalled ends by its own deadline."""
    streams, answer = ResumableStreams(clock=clock), Answer()
    answer.only = Generation("r", 1, 5.0, lambda: None, clock=clock)
    stream, reader = streams.open("a", answer.events(), answer)
    events = streams.read(stream, reader)
    answer.only.push(Piece("one"))
    next(events)
    streams.leave(stream, reader)
    clock.advance(30)
    streams.look()
    assert answer.only.done


def test_keys_are_told_apart(models, avibe, machine, state_dir):
    """Two keys from one address."""
    from edge.services import services
    from keys.registry import Actor

    settings = load_settings({"AUTH": "keys", "STATE_DIR": str(state_dir)}, None)
    app = create_app(settings, models, machine)
    registry = services(app).key_registry
    secrets = [registry.make(Actor("tests"), f"resumable {name}")[1] for name in ("one", "two")]
    services(app).key_store.load()
    client = app.test_client()
    one, two = ({"Authorization": f"Bearer {secret}"} for secret in secrets)
    response, stream_id, events = ask(client, **one)
    next(events)
    response.close()
    assert client.get(ADDRESS.format(stream_id)).status_code == 401
    assert client.get(ADDRESS.format(stream_id), headers=two).status_code == 404
    assert client.get(ADDRESS.format(stream_id), headers=one).status_code == 200
    owners = {re.search('data-owner="(key:[^"]+)"', client.get("/", headers=key).text)[1] for key in (one, two)}
    assert len(owners) == 2  # whose history a browser shows


def test_they_are_in_the_metrics(client, avibe):
    """Their number and their bytes."""
    assert "avito_ai_resumable_streams_bytes 0.0" in client.get("/metrics").text
    response, _, events = ask(client)
    next(events)
    text = client.get("/metrics").text
    assert "avito_ai_resumable_streams 1.0" in text
    assert "avito_ai_resumable_streams_bytes 0.0" not in text
    response.close()


def test_a_stream_that_fails_to_go_on_holds_up_no_other(clock):
    """It stays free to be taken, and ends with its minute."""
    streams, broken, sound = ResumableStreams(clock=clock), Answer(), Answer()

    def failing():
        yield b"one"
        raise RuntimeError

    for answer, events in ((broken, failing()), (sound, sound.events())):
        answer.only.push(Piece("one"))
        stream, reader = streams.open("a", events, answer)
        next(streams.read(stream, reader))
        streams.leave(stream, reader)
        answer.only.push(Piece("two"))
    streams.look()
    assert streams.take("a", stream.id) is not None
    clock.advance(KEPT_SECONDS)
    streams.look()
    assert (broken.closed, sound.closed) == (1, 0)


def test_the_end_of_the_process_ends_what_has_no_reader(client, avibe, streams, app):
    """So that what it used is recorded."""
    leave_amid(client, avibe)
    app.extensions[KEY].end_serving()
    assert avibe.aborted == ["mine"]
    assert streams.size() == (0, 0)
