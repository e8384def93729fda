"""One request as spans: the request itself, and for each answer prepare, queue, prefill and decode.

Attributes follow OpenTelemetry's semantic conventions for HTTP (1.4x, stable) and for generative AI (in development):
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/. Those without a convention are `avito_ai.*`. Data of
clients is never in a span: no prompt, image, answer, stop string or key.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from engine.types import Completion, GenerationRequest, SamplingParams
from telemetry.tracing.trace import Trace

PROVIDER = "avito_ai"
CHAT, COMPLETION = "chat", "text_completion"
OPERATIONS = {"/v1/completions": COMPLETION}  # all others are chats
ID_PREFIXES = {"/v1/chat/completions": "chatcmpl-", "/v1/completions": "cmpl-", "/v1/messages": "msg_"}
PARTS = ("prepare", "queue", "prefill", "decode")
ABORTED = "request_aborted"
SERVER_ERROR = 500


class RequestTrace(Trace):
    """The spans of one request.

    span: the request's own, already started; clock: monotonic seconds, the same as the engine's; wall: nanoseconds to
    add to the clock for Unix time.
    """

    def __init__(
        self,
        tracer: Tracer,
        span: Span,
        route: str,
        request_id: str,
        began: float,
        wall: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer, self._span, self._began, self._wall, self._clock = tracer, span, began, wall, clock
        self._operation = OPERATIONS.get(route, CHAT)
        self._lock = threading.Lock()  # guards the fields below
        self._holders = 1  # the response itself
        self._expected, self._each = 0, 1  # number of answers: in total, and per prompt
        self._submitted: dict[int, float] = {}  # by answer number, as the next two
        self._prepared: dict[int, float] = {}
        self._answers: dict[int, Completion] = {}
        self._status, self._streamed, self._error = 0, False, ""
        self._response_id = ID_PREFIXES.get(route, "") + request_id

    @property
    def parent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def hold(self) -> Callable[[], None]:
        with self._lock:
            self._holders += 1
        held = [self._release]
        return lambda: held.pop()() if held else None

    def validated(self, model: str, served_id: str, prompts: int, answers: int) -> None:
        with self._lock:
            self._expected, self._each = answers, answers // prompts
        self._span.update_name(f"{self._operation} {model}")
        self._span.set_attributes({"gen_ai.request.model": model, "gen_ai.response.model": served_id})
        self.identified(self._response_id)
        if answers != prompts:
            self._span.set_attribute("gen_ai.request.choice.count", self._each)
        if answers != 1:
            self._span.set_attribute("avito_ai.answers", answers)

    def identified(self, response_id: str) -> None:
        self._span.set_attribute("gen_ai.response.id", response_id)

    def submitting(self, number: int, request: GenerationRequest) -> None:
        with self._lock:
            first = not self._submitted
            self._submitted[number] = self._clock()
        if first:
            self._span.set_attributes(_sampling(request.sampling))

    def submitted(self, number: int) -> None:
        with self._lock:
            self._prepared[number] = self._clock()

    def answered(self, number: int, completion: Completion) -> None:
        with self._lock:
            self._answers[number] = completion
            submitted, prepared = self._submitted[number], self._prepared[number]
        times = completion.timings
        first_token = times.total if times.first_token is None else times.first_token
        started, first, ended = (submitted + seconds for seconds in (times.queued, first_token, times.total))
        # The engine may have started before the submitting thread noted that the request was accepted.
        moments = (submitted, min(prepared, started), started, first, ended)
        context = set_span_in_context(self._span)
        for name, begin, end in zip(PARTS, moments, moments[1:], strict=False):
            span = self._tracer.start_span(
                name, context, start_time=self._time(begin), attributes=self._part(name, number, completion)
            )
            span.end(self._time(end))

    def failed(self, code: str, status: int, message: str) -> None:
        with self._lock:
            self._error = self._error or code
        if status >= SERVER_ERROR:
            self._span.set_status(Status(StatusCode.ERROR, message))

    def responded(self, status: int, streamed: bool) -> None:
        with self._lock:
            self._status, self._streamed = status, streamed
        self._release()

    def _release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            if not self._error and len(self._answers) < self._expected:
                self._error = ABORTED
        self._span.set_attributes(self._outcome())
        self._span.end(self._time(self._clock()))

    def _outcome(self) -> dict[str, AttributeValue]:
        answers = [completion for _, completion in sorted(self._answers.items())]
        outcome: dict[str, AttributeValue] = {
            "http.response.status_code": self._status,
            "gen_ai.request.stream": self._streamed,
        }
        if self._error:
            outcome["error.type"] = self._error
        if not answers:
            return outcome
        prompts = {number // self._each: completion for number, completion in self._answers.items()}.values()
        outcome |= {
            "gen_ai.response.finish_reasons": [completion.finish_reason for completion in answers],
            "gen_ai.usage.input_tokens": sum(completion.prompt_tokens for completion in prompts),
            "gen_ai.usage.output_tokens": sum(completion.output_tokens for completion in answers),
            "gen_ai.usage.cache_read.input_tokens": sum(completion.cached_tokens for completion in prompts),
        }
        firsts = [
            self._submitted[number] + completion.timings.first_token - self._began
            for number, completion in self._answers.items()
            if completion.timings.first_token is not None
        ]
        return outcome | ({"gen_ai.response.time_to_first_chunk": min(firsts)} if self._streamed and firsts else {})

    def _part(self, name: str, number: int, completion: Completion) -> dict[str, AttributeValue]:
        tokens: dict[str, dict[str, AttributeValue]] = {
            "prefill": {
                "gen_ai.usage.input_tokens": completion.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": completion.cached_tokens,
            },
            "decode": {
                "gen_ai.usage.output_tokens": completion.output_tokens,
                "gen_ai.response.finish_reasons": [completion.finish_reason],
            },
        }
        return tokens.get(name, {}) | ({"avito_ai.answer": number} if self._expected > 1 else {})

    def _time(self, moment: float) -> int:
        return int(moment * 1e9) + self._wall


def first_attributes(method: str, route: str, request_id: str) -> dict[str, AttributeValue]:
    """Return the attributes that are known before the body is read."""
    return {
        "gen_ai.operation.name": OPERATIONS.get(route, CHAT),
        "gen_ai.provider.name": PROVIDER,
        "http.request.method": method,
        "http.route": route,
        "url.path": route,
        "avito_ai.request_id": request_id,
    }


def begun(tracer: Tracer, context: Context, method: str, route: str, request_id: str, began: float) -> Trace:
    """Return the trace of a request; one that does nothing if it is not sampled."""
    wall = time.time_ns() - int(time.monotonic() * 1e9)
    span = tracer.start_span(
        OPERATIONS.get(route, CHAT),
        context,
        SpanKind.SERVER,
        first_attributes(method, route, request_id),
        start_time=int(began * 1e9) + wall,
    )
    return RequestTrace(tracer, span, route, request_id, began, wall) if span.is_recording() else Trace()


def _sampling(params: SamplingParams) -> dict[str, AttributeValue]:
    """Return the sampling parameters without neutral values."""
    attributes: dict[str, AttributeValue] = {
        "gen_ai.request.max_tokens": params.max_tokens,
        "gen_ai.request.temperature": float(params.temperature),
        "gen_ai.request.top_p": float(params.top_p),
        "gen_ai.output.type": "text" if params.token_mask is None else "json",
    }
    optional = {
        "gen_ai.request.top_k": params.top_k or None,
        "gen_ai.request.seed": params.seed,
        "gen_ai.request.frequency_penalty": params.frequency_penalty or None,
        "gen_ai.request.presence_penalty": params.presence_penalty or None,
    }
    return attributes | {name: value for name, value in optional.items() if value is not None}
