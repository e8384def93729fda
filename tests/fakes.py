"""Fakes for the seams: backends that follow a script, a clock, a machine. Nothing here loads a model.

`ScriptedBackend` answers at once unless told to hold, fail or refuse; it decodes images as a real one does, so that
damaged ones are refused and an overload can be seen to decode none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

from PIL import Image

from engine.backend import Generation
from engine.errors import NotReady, Overloaded, RequestAborted, RetryLater, ServiceError, ValidationError
from engine.text.images import decode
from engine.types import (
    BackendState,
    BackendStats,
    ChatPrompt,
    Completion,
    DetokenizeRequest,
    Echo,
    GenerationRequest,
    ModelIdentity,
    ModelInfo,
    Piece,
    QueuePosition,
    ServerReport,
    Spelled,
    Status,
    Timings,
    TokenizeRequest,
    TokenLogprob,
    Vocabulary,
)
from models import ModelSet
from telemetry.metrics.machine import GpuFigures, SystemFigures
from tests.timing import PATIENCE


class Clock:
    """A clock that stands still until it is moved. Seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ScriptedBackend:
    """A `Backend` that does what the test says.

    text: what it answers; hold: keep every answer open until `finish` or `fail`; failure: what an admitted request
    ends with; refusal: what `submit` raises; capacity: how many open answers it admits before it is overloaded;
    queue_position: where every open answer waits.
    """

    def __init__(self, name: str = "avibe", text: str = "An answer.", demo: bool = False, **info: object) -> None:
        served_id = f"{name}-demo" if demo else name
        self._info = replace(ModelInfo(name, served_id, name == "avision", demo, 4096), **info)
        self.text = text
        self.finish_reason = "stop"
        self.ended_by: str | None = None  # the stop string
        self.output_tokens = 5
        self.cached_tokens = 0  # of the 7 of every prompt
        self.timings = Timings(queued=0.25, first_token=0.5, total=1.25)
        self.hold = False
        self.failure: ServiceError | None = None
        self._refusal: Exception | None = None
        self._wakes: list[Callable[[], None]] = []
        self.capacity = 1000
        self.most: int | None = None  # open answers of one client
        self.queue_position: QueuePosition | None = None
        self.tokens: Vocabulary | None = None
        self.logprobs: list[TokenLogprob] = []
        self.token_ids: tuple[int, ...] = ()
        self.token_offsets: tuple[int, ...] = ()
        self.reasoning_tokens: int | None = None  # as a server elsewhere counts them
        self.echo: Echo | None = None
        self.submitted: list[GenerationRequest] = []
        self.tokenized: list[TokenizeRequest] = []
        self.detokenized: list[DetokenizeRequest] = []
        self.decoded: list[tuple[int, int]] = []
        self.aborted: list[str] = []
        self.drained = False
        self.stopped_with: float | None = None
        self._state = BackendState(Status.READY)
        self._stats = BackendStats(max_num_seqs=64, max_waiting=128)
        self._open: dict[str, Generation] = {}
        self._changed = threading.Condition()  # guards every list and dictionary above

    @property
    def info(self) -> ModelInfo:
        return self._info

    # --- what the Backend protocol asks ---

    def vocabulary(self) -> Vocabulary | None:
        return self.tokens

    def start(self) -> None:
        self.become(Status.READY)

    def submit(self, request: GenerationRequest) -> Generation:
        with self._changed:
            self._admit()
            request = self._with_images_decoded(request)
            request_id = request.request_id  # nothing else of the request is kept beside `submitted`
            generation = Generation(
                request_id,
                prompt_tokens=7,
                deadline=time.monotonic() + request.timeout,
                on_abort=lambda: self._aborted(request_id),
                queue_position=lambda: self.queue_position,
                max_tokens=request.sampling.within(self.info.max_model_len - 7).max_tokens,
                prompt_token_ids=tuple(range(7)) if request.sampling.return_token_ids else (),
            )
            self.submitted.append(request)
            self._open[request.request_id] = generation
            self._changed.notify_all()
        if self.failure is not None:
            self.fail(request.request_id, self.failure)
        elif not self.hold:
            self.finish(request.request_id)
        return generation

    def _with_images_decoded(self, request: GenerationRequest) -> GenerationRequest:
        left_out = set()
        for number, image in enumerate(request.prompt.images if isinstance(request.prompt, ChatPrompt) else ()):
            try:
                self.decoded.append(decode(image).size)
            except ValidationError:
                if image.instead is None:
                    raise
                left_out.add(number)
        return replace(request, prompt=request.prompt.without_images(left_out)) if left_out else request

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        with self._changed:
            self._check_ready()
            self.tokenized.append(request)
        return list(range(7))

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        with self._changed:
            self._check_ready()
            self.detokenized.append(request)
        names = tuple(f"t{token_id} " for token_id in request.token_ids)
        return Spelled("".join(names), names)

    def would_refuse(self, client: str) -> RetryLater | None:
        try:
            with self._changed:
                self._admit()
        except Exception as error:
            return error if isinstance(error, RetryLater) else None
        return None

    def most_at_once(self) -> int | None:
        return self.most

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Callable[[], None]) -> Generation | None:
        with self._changed:
            stats = self.stats()
            if alone or stats.num_requests_running + stats.num_requests_waiting < stats.max_num_seqs:
                with suppress(Overloaded):
                    return self.submit(request)
            self._wakes.append(wake)
            return None

    def stop_waiting(self, wake: Callable[[], None]) -> None:
        self._wake_batches()

    def state(self) -> BackendState:
        return self._state

    def stats(self) -> BackendStats:
        return replace(self._stats, num_requests_running=len(self._open))

    def drain(self) -> None:
        self.drained = True
        self.become(Status.DRAINING)

    def stop(self, timeout: float) -> None:
        self.drain()
        self.stopped_with = timeout

    # --- what a test does with it ---

    @property
    def refusal(self) -> Exception | None:
        """What `submit` raises."""
        return self._refusal

    @refusal.setter
    def refusal(self, error: Exception | None) -> None:
        self._refusal = error
        self._wake_batches()

    def become(self, status: Status, **details: object) -> None:
        """Change the state."""
        self._state = BackendState(status, **details)

    def report(self, **figures: float) -> None:
        """Change the figures."""
        self._stats = replace(self._stats, **figures)

    def push(self, request_id: str, text: str, **details: object) -> None:
        """Hand over a part of an open answer; details: what else a `Piece` may hold."""
        self._open[request_id].push(Piece(text, **details))

    def finish(self, request_id: str) -> None:
        """End an open answer well."""
        completion = Completion(
            self.text,
            self.finish_reason,
            7,
            self.output_tokens,
            self.timings,
            tuple(self.logprobs),
            cached_tokens=self.cached_tokens,
            stop=self.ended_by,
            token_ids=self.token_ids,
            token_offsets=self.token_offsets,
            reasoning_tokens=self.reasoning_tokens,
            echo=self.echo,
        )
        generation = self._closed(request_id)
        generation.push(Piece(self.text, self.token_ids, tuple(self.logprobs) if self.echo else (), self.echo))
        generation.finish(completion)

    def fail(self, request_id: str, error: ServiceError) -> None:
        """End an open answer with an error."""
        self._closed(request_id).fail(error)

    def wait_for(self, condition: Callable[[ScriptedBackend], object]) -> None:
        """Wait until the condition holds; fail the test if it does not in time."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), PATIENCE), "the backend never came to that"

    @property
    def only(self) -> GenerationRequest:
        """The one request that was submitted."""
        (request,) = self.submitted
        return request

    def _check_ready(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self._state.status is not Status.READY:
            raise NotReady("The model is not ready.", 5)

    def _admit(self) -> None:
        self._check_ready()
        if len(self._open) >= self.capacity:
            raise Overloaded("The service is busy. Please try again later.", 3)

    def _closed(self, request_id: str) -> Generation:
        with self._changed:
            generation = self._open.pop(request_id)
            self._wake_batches()
            self._changed.notify_all()
            return generation

    def _wake_batches(self) -> None:
        with self._changed:
            wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    def _aborted(self, request_id: str) -> None:
        with self._changed:
            self.aborted.append(request_id)
            generation = self._open.pop(request_id, None)
            self._wake_batches()
            self._changed.notify_all()
        # on_abort may run with the generation's own lock held, and another thread may hold it: end it from outside.
        if generation is not None:
            threading.Thread(target=generation.fail, args=(RequestAborted("The request was stopped."),)).start()


class FakeMachine:
    """A machine with round figures and these GPUs."""

    def __init__(self, *gpu_figures: GpuFigures) -> None:
        self.gpu_figures = gpu_figures

    def system(self) -> SystemFigures:
        return SystemFigures(15.2, 45.8, int(128.5 * 1024**3), 60.2)

    def gpus(self) -> tuple[GpuFigures, ...]:
        return self.gpu_figures

    def gpu_memory(self) -> int | None:
        return sum(figures.total for figures in self.gpu_figures) or None


def scripted_models() -> ModelSet:
    """Return both models, ready, each answering at once."""
    return ModelSet({name: ScriptedBackend(name) for name in ("avibe", "avision")})


def elsewhere(state: str) -> SimpleNamespace:
    """Return what is known of the one server that answers for a model elsewhere, and has failed once. state: of it."""
    report = ServerReport("http://a/v1", state, 0, 2, {"status": 1}, "status", 1.0, None, 1)
    return SimpleNamespace(reports=lambda: [report], use_key=lambda key: None)


CHECKPOINT = ModelIdentity("checkpoint", "00", None, "float32", "fp")


def image_bytes(colour: str = "red", size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    """Return an encoded image of one colour."""
    buffer = BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def multipart(fields: Iterable[tuple[str, str | tuple[bytes, str]]]) -> dict[str, object]:
    """Return a form as a test client takes it; a file is its bytes with its name."""
    body = b""
    for name, value in fields:
        data, file = (value.encode(), "") if isinstance(value, str) else (value[0], f'; filename="{value[1]}"')
        body += (
            b"--limit\r\n" + f'Content-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return {"data": body + b"--limit--\r\n", "content_type": "multipart/form-data; boundary=limit"}
