"""Reports the events of a request to metrics, trace and log; the code that serves it calls this module alone.

begun → validated → submitting, submitted (each answer) → tokenized → answered or failed (each answer)
                                                                        responded, once, before the body is sent
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from engine.types import Completion, GenerationRequest
from telemetry.metrics import Metrics
from telemetry.protocol import Protocol
from telemetry.tracing import Trace

log = logging.getLogger("avito_ai.generation")
access_log = logging.getLogger("avito_ai.access")

LOGGED_PATH = 120  # characters


class RequestObserver:
    """Observes one request. Events may come from any thread; the answers of a request are numbered from 0.

    began: the request's arrival on `clock`, in seconds; model: whose generation figures a failure counts in, None where
    the request generates nothing or names its model in the body; protocol: of a request to generate. served_id: of the
    model, known once it is validated.
    """

    def __init__(
        self,
        metrics: Metrics,
        trace: Trace,
        request_id: str,
        began: float,
        model: str | None = None,
        protocol: Protocol | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics, self._trace, self._began, self._clock = metrics, trace, began, clock
        self._log = logging.LoggerAdapter(log, {"request_id": request_id})
        self._level = logging.INFO
        self._model, self._protocol = model, protocol
        self.served_id: str | None = None

    @property
    def trace_parent(self) -> str:
        """What `Trace.parent` says."""
        return self._trace.parent

    def hold(self) -> Callable[[], None]:
        """Keep the trace open beyond the response; return what releases it, once, however often it is called."""
        return self._trace.hold()

    def validated(self, model: str, served_id: str, prompts: int, answers: int, *, level: int = logging.INFO) -> None:
        """Note the model, and the total numbers of prompts and answers. level: of the log lines."""
        self._model, self.served_id, self._level = model, served_id, level
        self._trace.validated(model, served_id, prompts, answers)
        self._log.log(level, "validated: %s", model)

    def identified(self, response_id: str) -> None:
        """Record the id that the answer has in the response's body, where it is not the request's."""
        self._trace.identified(response_id)

    def submitting(self, number: int, request: GenerationRequest) -> None:
        """Note that the engine is about to take this answer's request."""
        self._trace.submitting(number, request)

    def submitted(self, number: int) -> None:
        """Note that the engine has taken it: its prompt is tokenized, its images are decoded."""
        self._trace.submitted(number)

    def tokenized(self, prompt_tokens: int) -> None:
        """Note the total number of prompt tokens."""
        self._log.log(self._level, "tokenized: %d prompt tokens", prompt_tokens)

    def answered(self, number: int, completion: Completion) -> None:
        """Count an answer that ended well; its seconds run from the request's arrival."""
        assert self._model is not None, "validated comes first"
        seconds = self._clock() - self._began
        self._metrics.generation_succeeded(self._model, self._protocol, completion, seconds)
        self._trace.answered(number, completion)
        reason = completion.finish_reason
        self._log.log(self._level, "generated: %d tokens in %.3fs (%s)", completion.output_tokens, seconds, reason)

    def failed(self, code: str, status: int, message: str) -> None:
        """Count an error of the request or of one of its answers, by the code and status of its response."""
        if self._model is not None:
            self._metrics.generation_failed(self._model, self._protocol, code)
        self._trace.failed(code, status, message)

    def over_budget(self, budget: str, window: str) -> None:
        """Count a refusal by the rate limit."""
        self._metrics.prometheus.refused(budget, window)

    def over_limit(self, limit: str) -> None:
        """Count a refusal by a limit or a budget of tokens, money or concurrent requests."""
        self._metrics.spending.refused(limit)

    def responded(
        self,
        method: str,
        rule: str | None,
        path: str,
        client: str,
        status: int,
        *,
        account: str = "",
        streamed: bool,
        level: int,
    ) -> float:
        """Count the response, write its access line at this level, and return its seconds since the arrival.

        rule: of the route, None where none matched; then the line shows the start of the path. client: its address;
        account: the name of its key or token, "" without one. level: logging.NOTSET for no line.
        """
        seconds = self._clock() - self._began
        self._metrics.prometheus.http(method, rule, status, seconds)
        if account:
            self._metrics.prometheus.by_key(account, status)
        if level != logging.NOTSET:
            who = f"{client} {account}" if account else client
            access_log.log(level, "%s %s %d %.3fs %s", method, rule or quote(path)[:LOGGED_PATH], status, seconds, who)
        self._trace.responded(status, streamed)
        return seconds
