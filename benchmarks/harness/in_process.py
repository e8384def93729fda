"""Clients of an engine in this process: threads that send a request, wait for its whole answer and send the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from benchmarks.harness.figures import Outcome
from benchmarks.harness.workload import Job
from engine.backend import Generation
from engine.errors import ServiceError
from engine.types import ChatPrompt, EncodedImage, GenerationRequest, Prompt, SamplingParams

TIMEOUT = 600.0


class Server(Protocol):
    """An engine in this process, or the implementation that it is compared with."""

    def submit(self, request: GenerationRequest) -> Generation: ...


def request_of(job: Job, number: int, image: EncodedImage | None = None) -> GenerationRequest:
    """Return a chat request whose answer has exactly `job.max_tokens` tokens."""
    content: object = job.prompt
    if image is not None:
        content = [{"type": "image"}, {"type": "text", "text": job.prompt}]
    prompt = ChatPrompt(({"role": "user", "content": content},), (image,) if image else ())
    return generation(prompt, job, number)


def generation(prompt: Prompt, job: Job, number: int) -> GenerationRequest:
    """Return a request for exactly `job.max_tokens` tokens after a prompt."""
    sampling = SamplingParams(job.max_tokens, job.temperature, ignore_eos=True)
    return GenerationRequest(f"benchmark-{number}", prompt, sampling, queue_timeout=TIMEOUT, timeout=TIMEOUT)


def ask(server: Server, request: GenerationRequest, answers: set[Generation] | None = None) -> Outcome:
    """Send a request and wait for its answer; the first token is timed by the server, from `submit`.

    answers: holds the answer while it is waited for.
    """
    began = time.perf_counter()
    held: set[Generation] = set() if answers is None else answers
    answer: Generation | None = None
    try:
        answer = server.submit(request)
        held.add(answer)
        completion = answer.result()
    except ServiceError as error:
        return Outcome(time.perf_counter() - began, error=type(error).__name__)
    finally:
        if answer is not None:
            held.discard(answer)
    seconds = time.perf_counter() - began
    return Outcome(seconds, completion.output_tokens, completion.timings.first_token)


class Clients:
    """`count` clients over one iterator of requests, from `start` until the requests run out or `stop` is called."""

    def __init__(
        self,
        server: Server,
        requests: Iterator[GenerationRequest],
        count: int,
        tick: Callable[[], object] = lambda: None,
    ) -> None:
        self._server, self._requests, self._tick = server, requests, tick
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards the requests and the outcomes
        self._outcomes: list[Outcome] = []
        self._answers: set[Generation] = set()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def start(self) -> None:
        """Start sending."""
        for thread in self._threads:
            thread.start()

    def take_outcomes(self) -> list[Outcome]:
        """Return the outcomes since the last call."""
        with self._lock:
            taken, self._outcomes = self._outcomes, []
        return taken

    def stop(self) -> None:
        """Send nothing new, and wait for the answers in progress."""
        self._stopping.set()
        self.join()

    def abandon(self) -> None:
        """Send nothing new, and abort the answers in progress."""
        self._stopping.set()
        for answer in list(self._answers):
            answer.abort()
        self.join()

    def join(self) -> None:
        """Wait until every client has finished."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set() and (request := self._next()) is not None:
            outcome = ask(self._server, request, self._answers)
            with self._lock:
                self._outcomes.append(outcome)
                self._tick()

    def _next(self) -> GenerationRequest | None:
        with self._lock:
            return next(self._requests, None)
