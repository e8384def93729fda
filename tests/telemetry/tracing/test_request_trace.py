"""A request as spans: names, attributes, times, and what is never in them."""

from __future__ import annotations

import json
import threading
import time

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes
from opentelemetry.trace import SpanKind, StatusCode

from app_production import create_app
from engine.errors import ModelError, Overloaded
from engine.types import Completion, GenerationRequest, SamplingParams, TextPrompt, Timings
from telemetry.tracing import NoTracing, tracing_for
from telemetry.tracing.request_trace import PARTS
from tests.fakes import Clock, image_bytes, multipart
from tests.telemetry.tracing.conftest import Traced

PRIVATE = "a prompt that must stay private"
GENERATE = "/api/v1/text/generate"
CHAT = "/v1/chat/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASKED = {"prompt": PRIVATE, "max_tokens": 5, "temperature": 0.25}
MESSAGES = [{"role": "user", "content": PRIVATE}]
STREAMED = {"model": "avibe", "messages": MESSAGES, "stream": True}


def seconds(span):
    return (span.end_time - span.start_time) / 1e9


def test_a_request_is_a_server_span_with_the_conventions_names(client, traced):
    """The request's span has its parameters and its outcome."""
    response = client.post(GENERATE, json=ASKED)
    span = traced.only("chat avibe")
    assert span.kind is SpanKind.SERVER
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "avito_ai",
        "gen_ai.request.model": "avibe",
        "gen_ai.response.model": "avibe",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.25,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.stream": False,
        "gen_ai.output.type": "text",
        "gen_ai.response.id": response.json["request_id"],
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "http.request.method": "POST",
        "http.route": GENERATE,
        "http.response.status_code": 200,
        "url.path": GENERATE,
        "avito_ai.request_id": response.json["request_id"],
    }


def test_the_names_are_those_of_the_published_conventions(client, traced, avibe):
    """Every attribute is in OpenTelemetry's own package, or has the prefix avito_ai."""
    avibe.failure = ModelError("The model failed.")
    client.post(CHAT, json={"model": "avibe", "messages": MESSAGES, "seed": 3, "top_k": 4, "presence_penalty": 0.5})
    avibe.failure = None
    asked = {"model": "avibe", "messages": MESSAGES, "n": 2, "stream": True, "frequency_penalty": 0.5}
    with client.post(CHAT, json=asked) as response:
        assert b"[DONE]" in response.data
    known = {
        value
        for module in (gen_ai_attributes, http_attributes, url_attributes, error_attributes)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    }
    used = {name for span in traced.spans() for name in span.attributes}
    assert {name for name in used - known if not name.startswith("avito_ai.")} == set()
    assert {"gen_ai.request.seed", "gen_ai.request.top_k", "gen_ai.request.presence_penalty"} <= used
    assert {"gen_ai.request.frequency_penalty", "gen_ai.response.time_to_first_chunk", "error.type"} <= used


def test_the_parts_of_an_answer_have_the_engines_own_times(client, traced, avibe):
    """One child span each, back to back, with the engine's durations."""
    avibe.timings = Timings(queued=0.25, first_token=0.75, total=2.75)
    before = time.time_ns()
    client.post(GENERATE, json=ASKED)
    after = time.time_ns()
    request = traced.only("chat avibe")
    prepare, queue, prefill, decode = parts = [traced.only(name) for name in PARTS]
    assert [round(seconds(span), 6) for span in (prefill, decode)] == [0.5, 2.0]
    assert seconds(prepare) + seconds(queue) == pytest.approx(0.25, abs=1e-6)
    assert [span.end_time for span in parts[:-1]] == [span.start_time for span in parts[1:]]
    assert before - 1e6 <= request.start_time <= prepare.start_time <= after + 1e6
    for span in parts:
        assert span.parent.span_id == request.context.span_id
        assert span.context.trace_id == request.context.trace_id
    assert dict(queue.attributes) == {}
    assert prefill.attributes["gen_ai.usage.input_tokens"] == 7
    assert decode.attributes["gen_ai.usage.output_tokens"] == 5


def test_preparing_is_no_waiting(traced):
    """The time until the engine has accepted a request is its preparation, at most until it started."""
    clock = Clock()
    trace = traced.tracing.begin("POST", GENERATE, {}, "id", clock())
    trace._clock = clock
    trace.validated("avibe", "avibe", 1, 2)
    request = GenerationRequest("id", TextPrompt("x"), SamplingParams(1))
    for number, queued in enumerate((0.0, 100.0)):
        trace.submitting(number, request)
        clock.advance(1.5)
        trace.submitted(number)
        trace.answered(number, Completion("x", "stop", 1, 1, Timings(queued, 101.0, 102.0)))
    trace.responded(200, False)
    assert [seconds(span) for span in traced.named("prepare")] == [0.0, 1.5]
    assert [seconds(span) for span in traced.named("queue")] == [0.0, 98.5]


def test_the_clients_trace_goes_on(client, traced):
    """A `traceparent` of the client continues its trace; an invalid one is ignored."""
    client.post(GENERATE, json=ASKED, headers={"traceparent": PARENT, "tracestate": "vendor=1"})
    span = traced.only("chat avibe")
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert span.context.trace_state.get("vendor") == "1"
    assert client.post(GENERATE, json=ASKED, headers={"traceparent": "nonsense"}).status_code == 200
    assert traced.named("chat avibe")[1].parent is None


def test_a_long_state_of_a_trace_is_passed_over(client, traced):
    """As the specification allows; the trace goes on without it."""
    state = ",".join(f"vendor{number}={'x' * 200}" for number in range(3))
    client.post(GENERATE, json=ASKED, headers={"traceparent": PARENT, "tracestate": state})
    span = traced.only("chat avibe")
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
    assert not span.context.trace_state


@pytest.mark.parametrize(("share", "flag", "spans"), [(0.0, "01", 5), (0.0, None, 0), (1.0, "00", 0), (1.0, None, 5)])
def test_the_client_decides_first_and_then_the_share(settings, models, machine, share, flag, spans):
    """The client's sampling decision is followed; the share applies to requests without one."""
    traced = Traced(share)
    headers = {} if flag is None else {"traceparent": PARENT[:-2] + flag}
    client = create_app(settings, models, machine, traced.tracing).test_client()
    assert client.post(GENERATE, json=ASKED, headers=headers).status_code == 200
    assert len(traced.spans()) == spans
    traced.tracing.stop()


def test_a_stream_is_traced_to_its_end(client, traced, avibe):
    """The span of a stream ends with the stream, not with its headers, and has the time of the first chunk."""
    avibe.hold = True
    response = client.post(CHAT, json=STREAMED, buffered=False)
    assert traced.spans() == []
    avibe.finish(avibe.only.request_id)
    assert b"An answer." in response.data
    response.close()
    span = traced.only("chat avibe")
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.response.time_to_first_chunk"] == pytest.approx(0.5, abs=0.5)
    assert span.attributes["gen_ai.usage.output_tokens"] == 5
    assert len(traced.spans()) == 5


def test_a_stream_that_fails_says_so_in_its_span(client, traced, avibe):
    """An error after the headers is in the span, though the status of the response was 200."""
    avibe.hold = True
    response = client.post(CHAT, json=STREAMED, buffered=False)
    avibe.fail(avibe.only.request_id, ModelError("The model failed."))
    assert b"model_error" in response.data
    response.close()
    span = traced.only("chat avibe")
    assert (span.attributes["error.type"], span.attributes["http.response.status_code"]) == ("model_error", 200)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "The model failed.")
    assert len(traced.spans()) == 1


def test_a_client_that_leaves_a_stream_is_an_abort(client, traced, avibe):
    """A stream whose client disconnects is aborted, which is not an error of the service."""
    avibe.hold = True
    response = client.post(CHAT, json=STREAMED, buffered=False)
    next(iter(response.response))
    response.close()
    span = traced.only("chat avibe")
    assert span.attributes["error.type"] == "request_aborted"
    assert span.status.status_code is StatusCode.UNSET


def test_several_answers_share_one_request(client, traced):
    """With n=3 the prompt is counted once, each answer separately, and every part has its answer's number."""
    response = client.post(CHAT, json={"model": "avibe", "messages": MESSAGES, "n": 3})
    span = traced.only("chat avibe")
    assert span.attributes["gen_ai.response.id"] == response.json["id"]
    assert span.attributes["gen_ai.request.choice.count"] == 3
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",) * 3
    assert span.attributes["gen_ai.usage.input_tokens"] == response.json["usage"]["prompt_tokens"] == 7
    assert span.attributes["gen_ai.usage.output_tokens"] == 15
    assert sorted(part.attributes["avito_ai.answer"] for part in traced.named("decode")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}), ("/v1/responses", {"input": PRIVATE})],
)
def test_the_id_of_an_answer_is_that_of_its_body(client, traced, path, fields):
    """In every protocol; a refusal has none."""
    response = client.post(path, json={"model": "avibe", **fields})
    assert traced.only("chat avibe").attributes["gen_ai.response.id"] == response.json["id"]
    client.post(path, json={"model": "avibe"})
    (refusal,) = [span for span in traced.spans() if span.attributes.get("error.type") == "validation_error"]
    assert "gen_ai.response.id" not in refusal.attributes


def test_texts_to_be_continued_are_text_completions(client, traced):
    """Plain completions have the operation text_completion, and each prompt is counted."""
    response = client.post("/v1/completions", json={"model": "avibe", "prompt": [PRIVATE, "another"]})
    span = traced.only("text_completion avibe")
    assert span.attributes["gen_ai.operation.name"] == "text_completion"
    assert span.attributes["gen_ai.response.id"] == response.json["id"]
    assert span.attributes["gen_ai.usage.input_tokens"] == 14
    assert "gen_ai.request.choice.count" not in span.attributes
    assert span.attributes["avito_ai.answers"] == 2


def test_a_batch_is_one_trace(client, traced):
    """Each text of a batch has its parts below the request; an invalid text is the request's error."""
    response = client.post("/api/v1/text/batch", json={"prompts": [PRIVATE, "", "another"]})
    assert len([json.loads(line) for line in response.data.splitlines() if line]) == 3
    response.close()
    span = traced.only("chat avibe")
    assert span.attributes["avito_ai.answers"] == 3
    assert span.attributes["error.type"] == "validation_error"
    assert span.attributes["gen_ai.usage.output_tokens"] == 10
    assert sorted(part.attributes["avito_ai.answer"] for part in traced.named("queue")) == [0, 2]


def test_refusals_are_traced_without_a_model_s_parts(client, traced, avibe):
    """A refused request is one span with the error code; its status is an error only for server errors."""
    client.post(GENERATE, json={"prompt": ""})
    assert traced.only("chat").attributes["error.type"] == "validation_error"
    assert traced.only("chat").status.status_code is StatusCode.UNSET
    avibe.refusal = Overloaded("The service is busy.", 3)
    client.post(GENERATE, json=ASKED)
    span = traced.only("chat avibe")
    assert (span.attributes["error.type"], span.attributes["http.response.status_code"]) == ("overloaded", 503)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "The service is busy.")
    assert len(traced.spans()) == 2


def test_only_generation_is_traced(client, traced):
    """Probes, pages, metrics and unknown paths have no spans."""
    for path in ("/", "/api/health", "/api/health/ready", "/metrics", "/v1/models", "/nowhere"):
        client.get(path)
    assert traced.spans() == []


def test_nothing_that_a_client_wrote_is_in_a_span(client, traced, avibe):
    """Not the prompt, the image, the answer, a stop string, a system prompt or a name of an unknown field."""
    words = {"prompt": PRIVATE, "answer": "the answer's own words", "stop": "a stop string", "field": "a_field_of_mine"}
    avibe.text = words["answer"]
    system = [{"role": "system", "content": words["prompt"]}, *MESSAGES]
    client.post(CHAT, json={"model": "avibe", "messages": system, "stop": [words["stop"]], "user": words["prompt"]})
    client.post(GENERATE, json={"prompt": words["prompt"], words["field"]: 1})
    form = multipart([("prompt", words["prompt"]), ("image", (image_bytes(), words["field"]))])
    assert client.post("/api/v1/image/analyze", **form).status_code == 200
    assert {span.name for span in traced.spans()} >= {"chat avibe", "chat avision", "chat"}
    shown = "".join(span.to_json() for span in traced.spans())
    assert [word for word in words.values() if word in shown] == []


def test_a_trace_that_is_released_twice_ends_once(client, traced, avibe):
    """Releasing twice, from two threads, ends a request's span once; and not before its response."""
    trace = traced.tracing.begin("POST", GENERATE, {}, "id", time.monotonic())
    release = trace.hold()
    trace.responded(200, True)
    assert traced.spans() == []
    for thread in [threading.Thread(target=release) for _ in range(2)]:
        thread.start()
        thread.join(60)
    assert len(traced.spans()) == 1
    trace = traced.tracing.begin("POST", GENERATE, {}, "another", time.monotonic())
    release = trace.hold()
    for _ in range(2):
        release()
    assert len(traced.spans()) == 1  # the response is still to come
    trace.responded(200, True)
    assert len(traced.spans()) == 2


def test_without_a_collector_nothing_is_traced(settings):
    """Tracing is off by default, and stopping it does nothing."""
    tracing = tracing_for(settings)
    assert isinstance(tracing, NoTracing)
    trace = tracing.begin("POST", GENERATE, {"traceparent": PARENT}, "id", 0.0)
    assert trace is tracing.begin("POST", CHAT, {}, "id", 0.0)
    trace.hold()()
    tracing.stop()
