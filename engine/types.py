"""The types at the engine's interface: requests, answers, states and limits. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "abort"]


class TokenMask(Protocol):
    """A grammar's hook for one sequence, called by the engine's thread only."""

    def bitmask(self) -> Any:
        """Return the tokens allowed next: numpy int32 [ceil(vocab/32)], bit i of word i//32 set where allowed."""

    def accept(self, token_id: int) -> None:
        """Advance by one sampled token. Raises a ServiceError that becomes the answer's, if the grammar has failed."""


class Echo(Protocol):
    """A prompt that is shown with its answer. Reading it takes milliseconds for a long one."""

    @property
    def text(self) -> str:
        """Its text, with control tokens by their names."""

    @property
    def logprobs(self) -> list[TokenLogprob]:
        """Its tokens with their log probabilities, where those are asked for; the first one's means nothing."""


class Priority(IntEnum):
    """Which requests start first; a lower value goes first."""

    INTERACTIVE = 0
    BATCH = 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one answer is sampled; already validated.

    max_tokens: maximum number of new tokens; fit_context: it gives way to what the prompt leaves of the context.
    temperature: 0 is greedy. top_k: 0 keeps all. logprobs: number of alternatives for each token (None: no log
    probabilities). stop: strings that end the answer and are not shown. seed: the same seed gives the same answer,
    whatever else is in the batch. token_mask: a grammar. min_tokens: before so many tokens no end token is drawn and
    no stop string looked for; not together with a token_mask. return_token_ids: the prompt's tokens are wanted too.
    echo: its text is, and with `logprobs` the log probabilities of its tokens; then max_tokens may be 0.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    token_mask: TokenMask | None = None
    ignore_eos: bool = False
    fit_context: bool = False
    min_tokens: int = 0
    return_token_ids: bool = False
    echo: bool = False

    def within(self, room: int) -> SamplingParams:
        """Return the parameters where `room` tokens are left of the context."""
        return replace(self, max_tokens=room) if self.fit_context and 0 < room < self.max_tokens else self


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it was sent, its header already checked; it is decoded once the request is admitted."""

    data: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation for the checkpoint's chat template.

    messages: `{"role", "content", ...}`, content a string or a list of `{"type": "text", "text"}` and
    `{"type": "image"}` parts; images: one for each image part, in order; tools: as the template takes them;
    thinking: whether the template may open a reasoning block; continues: the last message is the assistant's and is
    continued, instead of being answered; opens_answer: whether the template opens the answer, which it does in any case
    where one is continued.
    """

    messages: tuple[Mapping[str, Any], ...]
    images: tuple[EncodedImage, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool = False
    continues: bool = False
    opens_answer: bool = True


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text to be continued, without a chat template."""

    text: str


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokensPrompt


class Cancellation:
    """Whether the answers to a request are still wanted; its work before the queue ends once they are not.

    Safe to use from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two fields below
        self._cancelled = False
        self._calls: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """True once `cancel` has been called."""
        return self._cancelled

    def cancel(self) -> None:
        """Want no answer any longer."""
        with self._lock:
            self._cancelled = True
            calls, self._calls = self._calls, []
        for call in calls:
            call()

    @contextmanager
    def notifying(self, call: Callable[[], None]) -> Iterator[None]:
        """Have `call` called by `cancel` meanwhile, at once if that has happened already; it must not block."""
        with self._lock:
            cancelled = self._cancelled
            if not cancelled:
                self._calls.append(call)
        if cancelled:
            call()
        try:
            yield
        finally:
            with self._lock:
                if call in self._calls:
                    self._calls.remove(call)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for one answer. Times are in seconds from `submit`.

    client: the key or address between which capacity is shared fairly. queue_timeout: how long it may wait in the
    queue; timeout: how long it may take in total. cancellation: ends the work of `submit`.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    client: str = ""
    priority: Priority = Priority.INTERACTIVE
    queue_timeout: float = 30.0
    timeout: float = 300.0
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A prompt whose tokens are asked for, and no answer. The other fields are those of `GenerationRequest`."""

    prompt: Prompt
    client: str = ""
    timeout: float = 300.0
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    """Token ids whose text is asked for. The other fields are those of `GenerationRequest`."""

    token_ids: tuple[int, ...]
    client: str = ""
    timeout: float = 300.0
    cancellation: Cancellation = field(default_factory=Cancellation, compare=False)


@dataclass(frozen=True, slots=True)
class Spelled:
    """The text of token ids, and that of each: a part of a character as its bytes, `bytes:\\xf0\\x9f`."""

    text: str
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log probability (natural logarithm), and the likeliest alternatives, best first.

    data: what it adds to the text, None for the bytes of `token`; top_data: the same of the alternatives, () for those
    of their texts. A part of a character is U+FFFD as a text. offset: where it begins in the text, in characters.
    """

    token_id: int
    token: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    data: bytes | None = None
    top_data: tuple[bytes, ...] = ()
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer that may be shown: whole characters only, no special tokens, no part of a stop string.

    echo: of the first part, if it is wanted.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """When one request started, had its first token (None without one) and ended, in seconds from `submit`."""

    queued: float
    first_token: float | None
    total: float


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer.

    output_tokens counts every generated token, including an end-of-sequence token; token_ids are these. stop: the stop
    string that ended it, None where none did. from_cache: nothing was computed, an earlier answer was kept.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    stop: str | None = None
    token_ids: tuple[int, ...] = ()
    echo: Echo | None = None
    from_cache: bool = False


@dataclass(frozen=True, slots=True)
class Spent:
    """What an answer took, however it ended: tokens of its prompt and of itself, and seconds of being computed."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def on(cls, completion: Completion) -> Spent:
        """Return what a finished answer took; one that was kept took nothing again."""
        if completion.from_cache:
            return cls()
        seconds = completion.timings.total - completion.timings.queued
        return cls(completion.prompt_tokens, completion.output_tokens, completion.cached_tokens, seconds)


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """The tokens of a model, for grammars.

    tokens: the bytes of each token's text, by its id, b"" for one without a text; encode: plain text to ids; index:
    the grammar library's own form of both.
    """

    tokens: tuple[bytes, ...]
    eos_token_ids: frozenset[int]
    encode: Callable[[str], list[int]]
    index: Any = None


class Status(Enum):
    """The state of a backend; it accepts requests only while READY."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    STALLED = "stalled"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a load: its stage in a few words, bytes of weights, seconds since it began."""

    stage: str
    loaded_bytes: int = 0
    total_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BackendState:
    """What readiness and liveness report; restart_needed is True only if a restart of the process helps."""

    status: Status
    reason: str = ""
    progress: Progress | None = None
    restart_needed: bool = False


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """The position of a request in the queue at this moment.

    ahead: how many requests start before it if no others arrive; eta_seconds: estimated time until it starts at the
    measured rate, 0.0 before one has been measured.
    """

    ahead: int
    eta_seconds: float


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Metrics of one model. The totals never decrease while the process lives."""

    num_requests_running: int = 0
    num_requests_waiting: int = 0
    max_num_seqs: int = 0
    max_waiting: int = 0
    kv_cache_tokens_used: int = 0
    kv_cache_tokens_capacity: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generation_tokens_total: int = 0
    nan_logits_total: int = 0
    preemptions_total: int = 0
    engine_restarts_total: int = 0
    steps_total: int = 0
    seconds_since_step: float = 0.0
    estimated_wait_seconds: float = 0.0


def model_of(name: str) -> str:
    """Return the model that a name is of: `avibe` for its further version `avibe@v2` as well."""
    return name.partition("@")[0]


def is_further(name: str) -> bool:
    """Return whether a name is that of a further version, without which the service serves as well."""
    return "@" in name


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which checkpoint to load, where, and which settings an error about it names.

    name: `avibe`, `avision`, or a further version such as `avibe@v2`: the label in metrics and logs; served_id: the
    value of `X-Model` (`avibe-demo` for the demo); vision: whether it reads images; device: `cpu`, `cuda` or `cuda:N`,
    counted among the GPUs that CUDA shows; dtype: `float16`, `bfloat16` or `float32`; quant: the format of the
    decoder's weights, `none` for that dtype. version: of the model, "" where it has only one; checkpoint_name: of the
    checkpoint, "" for that of its folder or repository; engine_version: of what computes its numbers.
    """

    name: str
    served_id: str
    vision: bool
    model_dir: Path
    tokenizer_dir: Path
    device: str
    dtype: str
    dir_setting: str
    tokenizer_setting: str
    dtype_setting: str
    demo: bool = False
    version: str = ""
    checkpoint_name: str = ""
    engine_version: str = ""
    quant: str = "none"
    quant_setting: str = ""

    @property
    def weights(self) -> str:
        """Return the format of the decoder's weights."""
        return self.dtype if self.quant == "none" else self.quant

    @property
    def device_type(self) -> str:
        """Return `cpu` or `cuda`."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine's limits. Counts are per model; times are in seconds; lengths are in tokens.

    kv_cache_tokens: size of the KV cache; 0: by the memory budget. step_overhead: the fixed cost of a step, in the
    tokens that take as long.
    """

    max_num_seqs: int = 64
    max_waiting: int = 128
    max_model_len: int = 4096
    max_num_batched_tokens: int = 320
    kv_cache_tokens: int = 0
    stall_seconds: float = 20.0
    cpu_threads: int = 0
    prefix_cache: bool = True
    prefix_sharing: str = "client"
    step_overhead: int = 8
    cuda_graphs: bool = True
    reload_reserve: bool = False
    image_workers: int = 0


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights answer, and how they are computed.

    name: of the checkpoint; digest: SHA-256 of its config and of the headers of its weights, in hexadecimal; revision:
    the commit of the Hugging Face cache that it is from; fingerprint: changes with whatever changes an answer.
    """

    name: str
    digest: str
    revision: str | None
    dtype: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What clients and pages may know of a model: lengths in tokens, the checkpoint's sampling defaults.

    loaded: whether these are the checkpoint's own; before that, max_model_len is the most that it can be.
    tools: whether the chat template renders tools and calls; None where that has not been tried. identity: None before
    the model is loaded. version: "" where the model has only one.
    """

    name: str
    served_id: str
    vision: bool
    demo: bool
    max_model_len: int
    generation_defaults: Mapping[str, float] = field(default_factory=dict)
    loaded: bool = True
    tools: bool | None = None
    identity: ModelIdentity | None = None
    version: str = ""

    @property
    def fingerprint(self) -> str | None:
        """Return what changes with the numbers that answers come from; None before the model is loaded."""
        return None if self.identity is None else self.identity.fingerprint

    @property
    def uses_tools(self) -> bool:
        """Whether requests may have tools; one that comes before the model is loaded is not refused for them."""
        if self.tools is None:
            return not self.vision or not self.loaded
        return self.tools

    @classmethod
    def of(
        cls,
        spec: ModelSpec,
        max_model_len: int,
        generation_defaults: Mapping[str, float] | None = None,
        tools: bool | None = None,
        identity: ModelIdentity | None = None,
    ) -> ModelInfo:
        """Return what clients may know of the model that a spec describes, loaded if its defaults are given."""
        return cls(
            name=spec.name,
            served_id=spec.served_id,
            vision=spec.vision,
            demo=spec.demo,
            max_model_len=max_model_len,
            generation_defaults=generation_defaults or {},
            loaded=generation_defaults is not None,
            tools=tools,
            identity=identity,
            version=spec.version,
        )
