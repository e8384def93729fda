"""Streams of /v1 and /api/v1: their events, their ends, and disconnected clients."""

import json

import pytest
from flask import g
from pydantic import TypeAdapter

from engine.errors import ModelError, Overloaded
from engine.types import ChatPrompt, QueuePosition, SamplingParams, Timings, TokenLogprob
from routes import generation
from routes.chat.task import ChatRun
from routes.generation_run import Run
from routes.openai.chat_response import ChatResponse
from routes.openai.completions import CompletionResponse
from routes.openai.requests import ChatRequest, CompletionRequest
from routes.response_models import GenerationAnswer
from routes.sse import KEEP_ALIVE, EventStream
from tests.fakes import image_bytes, multipart
from tests.timing import NewThreads

CHAT, TEXT, OWN = "/v1/chat/completions", "/v1/completions", "/api/v1/text/generate"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def stream(client, path=CHAT, **fields):
    """Return the response of a stream and the objects of its events; [DONE] is a text."""
    body = {"stream": True}
    if path.startswith("/v1"):
        body |= {"model": "avibe"}
    if path == CHAT:
        body |= {"messages": HELLO}
    response = client.post(path, json=body | fields, headers={"X-Request-ID": "mine"})
    assert response.status_code == 200
    assert response.mimetype == "text/event-stream"
    assert response.headers["X-Accel-Buffering"] == "no"
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return response, [line if line == "[DONE]" else json.loads(line) for line in lines]


def deltas(events):
    """Return the deltas of the events of a chat."""
    return [event["choices"][0]["delta"] for event in events if event != "[DONE]" and event["choices"]]


def started(app, avibe, thinking=False, **fields):
    """Return a chat in the middle of its stream, which may call its tools; `avibe` still holds the answer."""
    avibe.hold = True
    body = {"model": "avibe", "messages": HELLO, "stream": True} | fields
    tools = frozenset(tool["function"]["name"] for tool in fields.get("tools", ()))
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))])
        return run, ChatResponse(ChatRun(run, tools, thinking), ChatRequest.model_validate(body))


def test_a_chat_comes_in_events(client):
    """Role, text, finish reason, [DONE]; every event has the same id and object."""
    _, events = stream(client)
    assert events.pop() == "[DONE]"
    assert {event["id"] for event in events} == {"chatcmpl-mine"}
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert deltas(events) == [{"role": "assistant", "content": ""}, {"content": "An answer."}, {}]
    assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, "stop"]
    assert all("usage" not in event for event in events)


def test_usage_is_an_event_of_its_own(client):
    """Only with include_usage; the other events have null then."""
    for path, fields in ((CHAT, {}), (TEXT, {"prompt": "x"})):
        _, events = stream(client, path, stream_options={"include_usage": True}, **fields)
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"] == []
        assert events[-2]["usage"]["total_tokens"] == 12
        assert all(event["usage"] is None for event in events[:-2])


def test_every_letter_is_sent_as_it_is(client, avibe):
    """Quotes, control characters and emoji survive; no text can end an event."""
    avibe.text = 'data: [DONE]\n\n"Ё" \\u0041 \u2028 🙂\x00'
    response, events = stream(client)
    assert deltas(events)[1] == {"content": avibe.text}
    assert "Ё" in response.text


def test_a_plain_text_comes_in_events(client):
    """The text, then the finish reason."""
    _, events = stream(client, TEXT, prompt="x")
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["An answer.", ""]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert {event["object"] for event in events[:-1]} == {"text_completion"}


def test_the_json_api_streams_text_and_then_the_whole(client):
    """The last event is the body without a stream, with what only a stream tells."""
    response, events = stream(client, OWN, prompt="x")
    whole = client.post(OWN, json={"prompt": "x"}, headers={"X-Request-ID": "mine"}).json
    assert events[0] == {"text": "An answer."}
    assert set(events[1]) == set(whole)
    assert events[1]["data"] == {**whole["data"], "finish_reason": "stop"}
    assert set(events[1]["metrics"]) - set(whole["metrics"]) == {"time_to_first_token"}
    assert (events[1]["request_id"], response.headers["X-Model"]) == ("mine", "avibe")


@pytest.mark.parametrize("made", [0.1234, None])
def test_the_last_event_has_the_time_to_the_first_token(client, avibe, made):
    """By the engine's clock, like the other times; null if there was no token."""
    avibe.timings = Timings(queued=0.0, first_token=made, total=0.5)
    _, events = stream(client, OWN, prompt="x")
    assert events[-1]["metrics"]["time_to_first_token"] == (made and 0.123)
    TypeAdapter(GenerationAnswer).validate_python(events[-1])


def test_the_last_event_tells_whether_the_answer_was_cut(client, avibe):
    """By the engine's own word, which no count of tokens gives: an answer may end just where it had to."""
    ends = []
    for avibe.finish_reason in ("length", "stop"):
        _, events = stream(client, OWN, prompt="x", max_tokens=5)
        assert events[-1]["data"]["generated_tokens"] == 5
        ends.append(events[-1]["data"]["finish_reason"])
    assert ends == ["length", "stop"]


def test_the_image_route_streams_too(client):
    """From a form, where the switch is a text."""
    form = multipart([("prompt", "?"), ("stream", "true"), ("image", (image_bytes(), "a.png"))])
    response = client.post("/api/v1/image/analyze", **form)
    assert response.text.startswith('data: {"text":"An answer."}\n\n')
    bad = multipart([("prompt", "?"), ("stream", "1"), ("image", (image_bytes(), "a.png"))])
    assert client.post("/api/v1/image/analyze", **bad).json["message"] == "stream must be true or false."
    off = multipart([("prompt", "?"), ("stream", "false"), ("image", (image_bytes(), "a.png"))])
    assert client.post("/api/v1/image/analyze", **off).json["success"] is True


def test_log_probabilities_are_sent_with_their_text(app, avibe):
    """Those of tokens whose text is held back are sent with the next event."""
    run, shape = started(app, avibe, logprobs=True)
    one, two = TokenLogprob(1, "a", -0.5), TokenLogprob(2, "b", -0.25)
    avibe.push("mine", "", token_ids=(1,), logprobs=(one,))
    avibe.push("mine", "ab", token_ids=(2,), logprobs=(two,))
    avibe.text = ""
    avibe.finish("mine")
    made = [event for event in shape.events() if event.startswith(b"data: {")]
    events = [json.loads(event.removeprefix(b"data: ")) for event in made]
    run.close()
    (told,) = [event["choices"][0]["logprobs"] for event in events if event["choices"][0]["logprobs"]]
    assert [token["token"] for token in told["content"]] == ["a", "b"]


def test_text_offsets_are_those_of_the_whole_text(app, avibe):
    """text_offset counts from the start of the continuation, in every event."""
    avibe.hold = True
    fields = CompletionRequest.model_validate({"model": "avibe", "prompt": "x", "logprobs": 1})
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))])
        shape = CompletionResponse(run, fields, 1)
    for offset, text in ((0, "ab"), (2, "c")):
        avibe.push("mine", text, token_ids=(1,), logprobs=(TokenLogprob(1, text, -1.0, offset=offset),))
    avibe.text = ""
    avibe.finish("mine")
    events = [json.loads(event.removeprefix(b"data: ")) for event in shape.events() if b"text_offset" in event]
    run.close()
    assert [event["choices"][0]["logprobs"]["text_offset"] for event in events] == [[0], [2]]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("thinking", [True, False])
def test_tokens_of_reasoning_are_counted(app, avibe, thinking, streamed):
    """The same whole and streamed, as in responses; there is no such field where the model may not reason."""
    run, response = started(app, avibe, thinking, stream_options={"include_usage": True})
    avibe.text, avibe.token_offsets = "<think>Hm. Yes</think>So.", (0, 7, 9, 10, 14, 22, 25)
    avibe.finish("mine")
    if streamed:
        sent = b"".join(response.events()).decode().split("\n\n")
        (usage,) = (json.loads(event[6:])["usage"] for event in sent if '"usage":{' in event)
    else:
        usage = response.whole(response.wait())["usage"]
    assert usage.get("completion_tokens_details") == ({"reasoning_tokens": 5} if thinking else None)
    run.close()


def test_calls_and_reasoning_are_events_of_their_own(client, avibe):
    """A call begins with its name and goes on with its arguments; the finish reason is `tool_calls`."""
    avibe.text = '<think>Hm.</think>So.\n<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    _, events = stream(client, tools=[TOOL], reasoning_effort="high")
    added = deltas(events)
    assert added[1:3] == [{"reasoning_content": "Hm."}, {"content": "So."}]
    (begin,), (more,) = (delta["tool_calls"] for delta in added[3:5])
    assert (begin["index"], begin["type"], begin["function"]) == (0, "function", {"name": "look", "arguments": ""})
    assert more == {"index": 0, "function": {"arguments": "{}"}}
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_several_choices_share_a_stream(client):
    """Each event has the index of its choice; every choice has an end."""
    for path, fields in ((CHAT, {}), (TEXT, {"prompt": "x"})):
        _, events = stream(client, path, n=2, **fields)
        ends = [event["choices"][0] for event in events[:-1] if event["choices"][0]["finish_reason"]]
        assert sorted(choice["index"] for choice in ends) == [0, 1]


@pytest.mark.parametrize(("path", "fields"), [(CHAT, {}), (TEXT, {"prompt": "x"})])
@pytest.mark.parametrize("n", [1, 2])
def test_a_failure_after_the_first_byte_is_one_event_without_done(client, avibe, path, fields, n):
    """In OpenAI's format; the failure is counted."""
    avibe.failure = ModelError("It failed.")
    _, events = stream(client, path, n=n, **fields)
    assert events[-1]["error"] == {
        "message": "It failed.",
        "type": "server_error",
        "param": None,
        "code": "model_error",
        "request_id": "mine",
    }
    assert len([event for event in events if "error" in event]) == 1
    assert client.get("/api/metrics").json["application"]["failed_requests"] == 1


def test_a_failure_of_a_stream_of_the_json_api_is_its_body(client, avibe):
    """The last event is the body that the failure has without a stream."""
    avibe.failure = ModelError("It failed.")
    _, events = stream(client, OWN, prompt="x")
    assert events == [{"error": "model_error", "message": "It failed.", "request_id": "mine"}]


def test_what_fails_before_the_first_byte_has_its_status(client, avibe):
    """A request that is refused gets 503 and no stream."""
    avibe.capacity = 0
    response = client.post(CHAT, json={"model": "avibe", "messages": HELLO, "stream": True})
    assert (response.status_code, response.mimetype) == (503, "application/json")


@pytest.mark.parametrize(
    ("path", "fields"), [(CHAT, {"messages": HELLO}), (TEXT, {"prompt": "x"}), (OWN, {"prompt": "x"})]
)
def test_who_is_refused_is_told_so_by_the_status(client, avibe, path, fields):
    """At capacity a stream is 503 with Retry-After, at once, and counted once."""
    avibe.refusal = Overloaded("The service is busy; try again later.", 7)
    named = {} if path == OWN else {"model": "avibe"}
    response = client.post(path, json={"stream": True} | named | fields)
    assert (response.status_code, response.mimetype, response.headers["Retry-After"]) == (503, "application/json", "7")
    protocol = {CHAT: "openai_chat", TEXT: "openai_completions", OWN: "api"}[path]
    counted = f'requests_total{{model="avibe",protocol="{protocol}",status="overloaded"}} 1.0'
    assert counted in client.get("/metrics").text
    assert avibe.stats().num_requests_running == 0


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_begins_while_its_answers_wait(client, avibe, n):
    """Who is admitted is told 200 at once."""
    avibe.hold = True
    body = {"model": "avibe", "messages": HELLO, "stream": True, "n": n}
    response = client.post(CHAT, json=body, headers={"X-Request-ID": "mine"}, buffered=False)
    assert (response.status_code, len(avibe.submitted)) == (200, n)
    for request in avibe.submitted:
        avibe.finish(request.request_id)
    assert response.text.endswith("data: [DONE]\n\n")


def test_keep_alives_are_comments(app, avibe):
    """A proxy does not close a stream that waits."""
    run, shape = started(app, avibe)
    events = shape.events(idle=0.01)
    next(events)
    assert [next(events), next(events)] == [KEEP_ALIVE, KEEP_ALIVE]
    avibe.push("mine", "")
    avibe.push("mine", "", token_ids=(1,))
    avibe.push("mine", "a", token_ids=(2,))
    avibe.finish("mine")
    rest = list(events)
    assert b'"content":"a"' in b"".join(rest)
    run.close()


def test_keep_alives_of_the_json_api_have_the_queue_position(app, avibe):
    """While the request waits; the usual comment afterwards."""
    avibe.hold, avibe.queue_position = True, QueuePosition(2, 3.456)
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))])
        events = generation.events(generation.Started(run, 0.0, None), lambda made: {"text": made.text}, idle=0.01)
    assert next(events) == b': queue {"before":2,"seconds":3.5}\n\n'
    avibe.queue_position = None
    assert next(events) == KEEP_ALIVE
    avibe.finish("mine")
    assert list(events)[-1] == b'data: {"text":"An answer."}\n\n'
    run.close()


def test_plain_completions_have_keep_alives(app, avibe):
    """The same comment as chats."""
    avibe.hold = True
    fields = CompletionRequest.model_validate({"model": "avibe", "prompt": "x"})
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))])
        events = CompletionResponse(run, fields, 1).events(idle=0.01)
    assert next(events) == KEEP_ALIVE
    avibe.finish("mine")
    assert list(events)[-1] == b"data: [DONE]\n\n"
    run.close()


def test_a_stream_that_is_closed_aborts_its_answer(client, avibe):
    """Before and after its first event."""
    avibe.hold = True
    for number, read in enumerate((0, 1)):
        response = client.post(CHAT, json={"model": "avibe", "messages": HELLO, "stream": True})
        body = iter(response.iter_encoded())
        for _ in range(read):
            next(body)
        response.close()
        avibe.wait_for(lambda one, wanted=number + 1: len(one.aborted) == wanted)


def test_the_end_of_a_stream_is_logged(client, caplog):
    """Although the request's context has ended by then."""
    caplog.set_level("INFO")
    stream(client)
    (line,) = [record for record in caplog.records if record.getMessage().startswith("generated:")]
    assert "5 tokens" in line.getMessage()


def test_an_iterable_without_close_calls_on_close():
    """The run of the stream ends with it."""
    closed = []
    EventStream(iter([b"x"]), lambda: closed.append(True)).close()
    assert closed == [True]


def test_a_stream_needs_no_request_context(app, avibe):
    """The context has ended when the server iterates."""
    run, shape = started(app, avibe)
    avibe.finish("mine")
    assert not g
    assert list(shape.events())[-1] == b"data: [DONE]\n\n"
    run.close()


def test_several_answers_are_read_by_the_requests_own_thread(app, avibe):
    """Their parts come in the order in which they were made, and no thread is started for any of them."""
    avibe.hold = True
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))] * 3)
    threads = NewThreads()
    pieces = run.pieces(idle=0.0)
    assert next(pieces)[1].text == ""
    avibe.push("mine-2", "a")
    avibe.push("mine", "b")
    avibe.push("mine-2", "c")
    seen = [(number, piece.text) for number, piece in (next(pieces) for _ in range(3))]
    assert seen == [(2, "a"), (0, "b"), (2, "c")]
    assert len(threads) == 0
    for name in ("mine-1", "mine", "mine-2"):
        avibe.finish(name)
    ends = [number for number, piece in pieces if piece is None]
    assert ends == [1, 0, 2]
    run.close()


def test_several_answers_end_with_the_first_error_of_one(app, avibe):
    """The others are aborted by the end of the run."""
    avibe.hold = True
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))] * 2)
    avibe.fail("mine-1", ModelError("It failed."))
    with pytest.raises(ModelError):
        list(run.pieces(idle=1.0))
    run.close()
    assert avibe.aborted == ["mine"]


@pytest.mark.parametrize("form", [ChatRequest, CompletionRequest])
def test_every_event_has_the_counts_so_far_if_asked(app, avibe, form):
    """`continuous_usage_stats`: of the answer that the event belongs to; the last event has all, as without it."""
    said = {"messages": HELLO} if form is ChatRequest else {"prompt": "x"}
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = form.model_validate({"model": "avibe", "stream_options": options} | said)
    avibe.hold, avibe.text, avibe.output_tokens = True, "", 4
    with app.test_request_context(method="POST", headers={"X-Request-ID": "mine"}):
        app.preprocess_request()
        run = Run("avibe", avibe, [(ChatPrompt(tuple(HELLO)), SamplingParams(9))] * 2)
        chat = ChatRun(run, frozenset(), False)
        response = ChatResponse(chat, body) if form is ChatRequest else CompletionResponse(run, body, 1)
    odd = 'null}\n\n"usage":null}\n\n'  # what ends an event without counts, as a text
    avibe.push("mine", odd, token_ids=(1, 2, 3))
    avibe.push("mine-1", "b", token_ids=(4,))
    avibe.push("mine-1", "c", token_ids=(5, 6))
    avibe.finish("mine")
    avibe.finish("mine-1")
    *events, last, _ = [event for event in response.events() if event != KEEP_ALIVE]
    run.close()
    shown = [json.loads(event.removeprefix(b"data: ")) for event in events if b'"role"' not in event]
    texts = [one["choices"][0].get("text", one["choices"][0].get("delta", {}).get("content")) for one in shown]
    assert [text for text in texts if text] == [odd, "b", "c"]
    counts = [(one["choices"][0]["index"], one["usage"]["completion_tokens"]) for one in shown]
    assert sorted(counts) == [(0, 3), (0, 3), (1, 1), (1, 3), (1, 3)]
    assert all(one["usage"]["total_tokens"] == 7 + one["usage"]["completion_tokens"] for one in shown)
    assert json.loads(last.removeprefix(b"data: "))["usage"]["completion_tokens"] == 8


def test_counts_in_every_event_need_the_last_one(client):
    """As in vLLM: without `include_usage` there are none."""
    _, events = stream(client, stream_options={"continuous_usage_stats": True})
    assert not any("usage" in event for event in events[:-1])
