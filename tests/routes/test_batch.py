"""Batches: one line for each text as it finishes, in the capacity that interactive requests leave free."""

import json
import threading
from contextlib import suppress

import pytest

from app_production import create_app
from config import load_settings
from engine.errors import ModelError, Overloaded
from engine.types import Priority, Status
from routes.batch import Batch
from routes.services import services
from routes.sse import EventStream
from tests.fakes import PATIENCE
from tests.timing import NewThreads
from usage.errors import HeldBack

BATCH = "/api/v1/text/batch"


def lines(response):
    """Return the objects of a finished batch by their index."""
    assert response.status_code == 200
    assert response.mimetype == "application/x-ndjson"
    found = [json.loads(line) for line in response.text.splitlines() if line]
    assert len({line["index"] for line in found}) == len(found)
    return {line["index"]: line for line in found}


def send(client, *prompts):
    return client.post(BATCH, json={"prompts": list(prompts)}, headers={"X-Request-ID": "mine"})


def test_a_batch_may_have_more_texts_than_its_client_may_have_at_once(client, avibe):
    """They wait for each other, so that none of them is too many."""
    avibe.most = 2
    assert len(lines(send(client, *"abcde"))) == 5


@pytest.fixture
def few(avibe):
    """A text model with capacity for three sequences."""
    avibe.report(max_num_seqs=3)
    return avibe


def begun(app, prompts, leave=lambda: None):
    """Return a batch of which nothing has been read. leave: called when it has ended."""
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        return Batch(
            [services(app).request_models.text(prompt=prompt) for prompt in prompts],
            lambda made: {"text": made.text},
            leave,
        )


class Reader:
    """Reads a batch in a thread, as a client does while the model still holds the answers."""

    def __init__(self, app, prompts):
        self.batch = begun(app, prompts)
        self.lines = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        self.lines += [json.loads(line) for line in self.batch.lines() if line.strip()]

    def finished(self):
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.batch.end()
        return {line["index"]: line for line in self.lines}


def test_every_text_gets_a_line_of_its_own(client, few):
    """The line is the body for a single text, with the index of the text and an id of its own."""
    found = lines(send(client, "a", {"prompt": "b", "max_tokens": 3, "temperature": 0}, "c", "d", "e"))
    assert sorted(found) == [0, 1, 2, 3, 4]
    line = found[1]
    assert line["success"] is True
    assert line["data"] == {"text": "An answer.", "generated_tokens": 5, "input_tokens": 7}
    assert set(line["metrics"]) == {"generation_time", "total_time", "tokens_per_second"}
    assert line["request_id"] == "mine-1"
    assert {request.priority for request in few.submitted} == {Priority.BATCH}
    sampling = next(request.sampling for request in few.submitted if request.request_id == "mine-1")
    assert (sampling.max_tokens, sampling.temperature) == (3, 0.0)


def test_one_bad_text_fails_alone(client, few):
    """With any mistake; the others are answered."""
    found = lines(
        send(client, "a", "", {"prompt": "x", "max_tokens": 0}, {"text": "x"}, {"prompt": "b", "stream": True}, "c")
    )
    assert [index for index, line in sorted(found.items()) if line.get("success")] == [0, 5]
    assert found[1] == {
        "index": 1,
        "error": "validation_error",
        "message": "prompt must not be empty.",
        "request_id": "mine-1",
    }
    assert found[2]["message"] == "max_tokens must be an integer from 1 to 2048."
    assert found[3]["error"] == found[4]["error"] == "validation_error"


def test_what_is_no_prompt_fails_alone(client, few):
    """Whatever stands in the list, each in its line."""
    bad = [5, None, True, ["x"], 1.5]
    found = lines(send(client, "a", *bad, "b"))
    assert [index for index, line in sorted(found.items()) if line.get("success")] == [0, len(bad) + 1]
    assert {found[index]["message"] for index in range(1, len(bad) + 1)} == {"prompt must be a text that is not blank."}


def test_a_text_that_the_model_fails_on_fails_alone(app, few):
    """Its line has the error of a single request."""
    few.hold = True
    reader = Reader(app, ["a", "b"])
    few.wait_for(lambda one: len(one.submitted) == 2)
    few.fail("mine-0", ModelError("It failed."))
    few.finish("mine-1")
    found = reader.finished()
    assert found[0]["error"] == "model_error"
    assert found[1]["text"] == "An answer."


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "prompts is required."),
        ({"prompts": []}, "prompts must be a list of 1 to 256 prompts, texts or objects."),
        ({"prompts": ["x"] * 257}, "prompts must be a list of 1 to 256 prompts, texts or objects."),
        ({"prompts": "x"}, "prompts must be a list of 1 to 256 prompts, texts or objects."),
        ({"prompts": ["x"], "stream": True}, "Unknown field: stream."),
    ],
)
def test_an_invalid_batch_is_refused_as_a_whole(client, avibe, body, sentence):
    """400, and nothing is generated."""
    response = client.post(BATCH, json=body)
    assert (response.status_code, response.json["message"]) == (400, sentence)
    assert avibe.submitted == []


def test_a_batch_runs_no_more_texts_than_there_is_capacity_for(app, few):
    """It never fills the waiting room; each finished text lets the next one start."""
    few.hold = True
    reader = Reader(app, [f"text {number}" for number in range(8)])
    few.wait_for(lambda one: len(one.submitted) == 3)
    for number in range(8):
        few.wait_for(lambda one, wanted=number: len(one.submitted) > wanted)
        assert few.stats().num_requests_running <= 3
        few.finish(few.submitted[number].request_id)
    assert len(reader.finished()) == 8


def test_a_batch_starts_no_thread(app, few):
    """The request's thread submits and reads all of its texts."""
    few.hold = True
    threads = NewThreads()
    reader = Reader(app, ["a", "b", "c", "d"])
    few.wait_for(lambda one: len(one.submitted) == 3)
    assert len(threads) == 1  # the reader itself
    for number in range(4):
        few.wait_for(lambda one, wanted=number: len(one.submitted) > wanted)
        few.finish(few.submitted[number].request_id)
    assert len(reader.finished()) == 4


def test_lines_come_in_the_order_in_which_texts_finish(app, few):
    """Not in the order of the request."""
    few.hold = True
    reader = Reader(app, ["a", "b", "c"])
    few.wait_for(lambda one: len(one.submitted) == 3)
    for number in (2, 0, 1):
        few.finish(f"mine-{number}")
    reader.finished()
    assert [line["index"] for line in reader.lines] == [2, 0, 1]


def test_interactive_requests_keep_their_capacity(app, few):
    """While others wait, a batch runs one text at a time."""
    few.hold = True
    few.report(num_requests_waiting=3)
    reader = Reader(app, ["a", "b", "c"])
    for number in range(3):
        few.wait_for(lambda one, wanted=number: len(one.submitted) > wanted)
        assert few.stats().num_requests_running == 1
        few.finish(few.submitted[number].request_id)
    assert len(reader.finished()) == 3


def test_a_text_without_capacity_is_tried_again(app, few):
    """A refusal is no error of a batch."""
    few.hold, few.refusal = True, Overloaded("The service is busy; try again later.", 1)
    reader = Reader(app, ["a"])
    few.refusal = None
    few.wait_for(lambda one: len(one.submitted) == 1)
    few.finish("mine-0")
    assert reader.finished()[0]["text"] == "An answer."


def test_a_text_that_never_gets_capacity_is_overloaded(models, machine, few):
    """Its time is limited like that of any other request."""
    settings = load_settings({"REQUEST_TIMEOUT": "1", "RATE_LIMIT_PER_MINUTE": "0", "RATE_LIMIT_PER_HOUR": "0"}, None)
    few.refusal = Overloaded("The service is busy; try again later.", 1)
    client = create_app(settings, models, machine).test_client()
    assert lines(send(client, "a"))[0]["error"] == "overloaded"


@pytest.mark.parametrize("status", [Status.LOADING, Status.DRAINING, Status.STALLED, Status.DEAD])
def test_a_batch_is_refused_as_a_whole_while_the_model_takes_no_requests(client, few, status):
    """503 with the time to try again, as a single text; a full model is waited for."""
    few.become(status)
    response = send(client, "a", "b")
    assert (response.status_code, response.json["error"], response.headers["Retry-After"]) == (503, "not_ready", "5")
    assert response.headers["X-Model"] == few.info.served_id


def test_texts_that_wait_when_the_service_begins_to_stop_are_refused_each(app, few):
    """Each has a line with its error, behind those of the texts that run."""
    few.hold = True
    reader = Reader(app, ["x"] * 4)
    few.wait_for(lambda one: len(one.submitted) == 3)
    few.become(Status.DRAINING)
    for request in list(few.submitted):
        few.finish(request.request_id)
    found = reader.finished()
    assert [found[index].get("error") for index in range(4)] == [None, None, None, "not_ready"]


def test_a_batch_leaves_capacity_to_the_next(client, app, few, monkeypatch):
    """At its end, where it is refused, and where it fails."""
    capacity = services(app).batch_capacity
    with send(client, "a") as response:
        assert len(lines(response)) == 1
        assert capacity.figures()[0] == 1
    assert capacity.figures()[0] == 0
    few.become(Status.LOADING)
    assert send(client, "a").status_code == 503
    few.become(Status.READY)
    for broken in ("routes.batch.Meter", "routes.api.EventStream"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, lambda *args: 1 / 0)
            assert send(client, "a").status_code == 500
        assert capacity.figures()[0] == 0


def test_a_batch_that_nobody_reads_leaves_capacity_to_the_next(app, few, monkeypatch):
    """Whatever goes wrong at its end."""
    few.hold, left = True, []
    stream = EventStream(iter(()), begun(app, ["a"], lambda: left.append("closed")).end)
    stream.close()
    failing = begun(app, ["a"], lambda: left.append("failed"))
    monkeypatch.setattr(failing, "close", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.end()
    assert left == ["closed", "failed"]


def test_a_batch_beyond_the_capacity_is_refused(client, app, few):
    """503 with the time to try again, and nothing of it is submitted; the batch of another client begins."""
    with suppress(Overloaded):
        while services(app).batch_capacity.admit("127.0.0.1"):
            pass
    response = send(client, "a")
    assert (response.status_code, response.json["error"], response.headers["Retry-After"]) == (503, "overloaded", "30")
    assert not few.submitted
    assert len(lines(client.post(BATCH, json={"prompts": ["a"]}, environ_base={"REMOTE_ADDR": "10.1.1.1"}))) == 1


def test_a_disconnect_aborts_the_batch(app, few):
    """Running texts are aborted, waiting ones never start, and the lines end."""
    few.hold = True
    reader = Reader(app, ["x"] * 10)
    few.wait_for(lambda one: len(one.submitted) == 3)
    reader.batch.close()
    few.wait_for(lambda one: len(one.aborted) == 3)
    reader.finished()
    assert len(few.submitted) == 3


def test_a_closed_batch_counts_what_was_in_flight(client, app, few):
    """Each running text is a failure in the figures, a waiting one is not."""
    few.hold = True
    reader = Reader(app, ["x"] * 5)
    few.wait_for(lambda one: len(one.submitted) == 3)
    reader.batch.close()
    reader.finished()
    figures = client.get("/api/metrics").json["application"]
    assert (figures["failed_requests"], figures["avibe_requests"]) == (3, 0)


def test_a_closed_batch_waits_for_no_engine(client, app, few, monkeypatch):
    """Texts that the engine has not ended yet count as aborted; one that was evicted just before, as overloaded."""
    few.hold = True
    monkeypatch.setattr(few, "_aborted", few.aborted.append)
    batch = begun(app, ["a", "b"])
    assert next(batch.lines(idle=0.0)) == b"\n"
    few.fail("mine-0", Overloaded("The service is at capacity; try again later.", 1))
    batch.end()
    assert few.aborted == ["mine-1"]
    assert client.get("/api/metrics").json["application"]["failed_requests"] == 2


def test_a_batch_closed_while_it_submits_aborts_that_text(app, few, monkeypatch):
    """The client may leave while the prompt is tokenized."""
    few.hold, submit = True, few.submit
    batch = begun(app, ["a", "b"])

    def close_after(request):
        generation = submit(request)
        batch.close()
        return generation

    monkeypatch.setattr(few, "submit", close_after)
    assert list(batch.lines()) == []
    few.wait_for(lambda one: one.aborted == ["mine-0"])
    assert len(few.submitted) == 1
    batch.end()


def test_a_closed_batch_submits_nothing(app, few):
    """Even if it is closed before the first text."""
    batch = begun(app, ["x"])
    batch.end()
    assert list(batch.lines()) == []
    assert few.submitted == []


def test_keep_alives_are_blank_lines(app, few):
    """A proxy does not close a batch that takes long."""
    few.hold = True
    batch = begun(app, ["x"])
    made = batch.lines(idle=0.01)
    assert next(made) == b"\n"
    few.wait_for(lambda one: one.submitted)
    few.finish("mine-0")
    assert [json.loads(line) for line in made if line.strip()][0]["index"] == 0
    batch.end()


def test_a_batch_is_charged_for_each_prompt(models, machine):
    """For invalid ones too; a batch larger than the whole limit gets a message of its own."""
    settings = load_settings({"RATE_LIMIT_PER_MINUTE": "10", "RATE_LIMIT_PER_HOUR": "0"}, None)
    client = create_app(settings, models, machine).test_client()
    response = send(client, "a", "", "c")
    assert response.headers["RateLimit-Remaining"] == "7"
    lines(response)
    assert client.post(BATCH, json={}).headers["RateLimit-Remaining"] == "6"
    assert send(client, *["x"] * 7).status_code == 429
    assert "counts as 11 requests" in send(client, *["x"] * 11).json["message"]


def test_a_batch_counts_each_text(client, few):
    """In the application's figures, invalid ones as failures."""
    lines(send(client, "a", "", "c"))
    figures = client.get("/api/metrics").json["application"]
    assert (figures["avibe_requests"], figures["failed_requests"]) == (2, 1)


@pytest.mark.parametrize("times", [3, 10**9])
def test_a_text_waits_for_what_others_may_leave_of_a_limit(app, few, monkeypatch, times):
    """As long as it would wait for capacity; with no text of its own running it looks again and again."""
    monkeypatch.setattr("routes.batch.HELD_BACK_SECONDS", 0.001)
    batch = begun(app, ["a", "b"])
    hold, tries = batch._reservation.hold, []

    def held_back(sizes):
        tries.append(sizes)
        if len(tries) <= times:
            raise HeldBack("Requests in flight may use it.", 1, "tokens_per_day")
        hold(sizes)

    batch._reservation.hold = held_back
    for text in batch._todo if times > 3 else ():
        text.give_up = 0.0
    found = [json.loads(line) for line in batch.lines() if line.strip()]
    batch.end()
    assert len(found) == 2
    assert {line.get("error") for line in found} == ({None} if times == 3 else {"rate_limit_exceeded"})
