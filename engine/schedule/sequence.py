"""One request in the engine: its tokens, how many are computed, and what was sent to the client. No torch here."""

from __future__ import annotations

import math
import random
from array import array
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import Any

from engine.backend import Generation
from engine.errors import OUT_OF_TIME, STOPPED, WAITED_TOO_LONG, DeadlineExceeded, RequestAborted, ServiceError
from engine.schedule.adjustments import Adjustments, Biases
from engine.schedule.block_pool import EVERYBODY, PrefixScope, blocks_for
from engine.schedule.drafter import Drafter
from engine.schedule.prompt_scores import PromptScores
from engine.schedule.token_logprobs import TokenLogprobs
from engine.text.detokenizer import Detokenizer
from engine.text.echo import PromptEcho
from engine.text.spelling import Spelling
from engine.types import (
    ChatPrompt,
    Completion,
    FinishReason,
    GenerationRequest,
    Piece,
    SamplingParams,
    Spent,
    Timings,
    TokenLogprob,
)

# The upper limit of uniform numbers, which would otherwise round up to 1.0 in float32.
BELOW_ONE = 1.0 - 2.0**-23
# The lower limit of temperatures: greedy in effect, and logits divided by it are still finite.
LOWEST_TEMPERATURE = 1e-4
# Tokens of an answer that count before any is generated: what an answer of a usual length has. max_tokens is only a
# bound, which most answers stay far below.
COUNTED_TOKENS = 256
DRAWN_AT_ONCE = 16  # random numbers of a sequence


class Phase(Enum):
    """The phase of a sequence. A preempted sequence goes back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, repr=False)
class Sequence:
    """State of one sequence; policy is the scheduler's. Belongs to the engine's thread once it is queued.

    token_ids: prompt and answer. prefix_keys: one key for each prompt token, equal where the model computes the same
    (an image's tokens carry the image's hash); scope: who may reuse them. cached_tokens: its own, found at its first
    start. num_computed: how many tokens have keys and values. slot: its row while it runs; blocks: its table in the KV
    cache, to which blocks are appended as it grows; any other change makes a new list. pending: how many tokens after
    token_ids launched steps sample; num_computed counts them once a later step is launched.
    needs_its_tokens: whether the choice of a token depends on the one before it other than through the model.
    end_token_ids: those that may not be drawn before `min_tokens`.
    spelling: how its prompt reads; scores: the log probabilities of that.
    drafts: tokens that its next step computes after the last one, in case they are chosen; drafter: finds them.
    adjustments: its bias and penalties; adjusts_logits: whether these or a grammar change logits. images, positions,
    rope_delta, sampled_row and image_embeds, those of the images that are computed in part by number, are the runner's.
    Times are on the engine's clock, in seconds.
    """

    request: GenerationRequest
    token_ids: list[int]
    generation: Generation
    detokenizer: Detokenizer
    arrival: float
    prefix_keys: list[Hashable]
    images: Any = None
    scope: PrefixScope = EVERYBODY
    end_token_ids: frozenset[int] = frozenset()
    spelling: Spelling | None = None
    positions: Any = None
    image_embeds: dict[int, Any] = field(default_factory=dict)
    rope_delta: int = 0
    sampled_row: bytes = b""

    phase: Phase = Phase.WAITING
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    order: int = 0  # of its latest start among all starts
    num_computed: int = 0
    most_computed: int = 0  # when it was preempted
    pending: int = 0
    drafts: list[int] = field(default_factory=list)
    drafter: Drafter | None = None
    cached_tokens: int = 0
    started_at: float | None = None
    first_token_at: float | None = None
    last_push: float = -math.inf

    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    unsent_text: str = ""
    unsent_tokens: list[int] = field(default_factory=list)
    unsent_logprobs: list[TokenLogprob] = field(default_factory=list)
    sent_characters: int = 0
    token_offsets: list[int] | None = field(init=False)  # of the answer's tokens in its text, None if it cannot reason

    sampling: SamplingParams = field(init=False)
    num_prompt: int = field(init=False)
    queue_deadline: float = field(init=False)
    deadline: float = field(init=False)
    adjustments: Adjustments | None = field(init=False)
    token_logprobs: TokenLogprobs | None = field(init=False)  # None where they are not asked for
    scores: PromptScores | None = field(init=False)  # None where they are not asked for
    needs_its_tokens: bool = field(init=False)
    adjusts_logits: bool = field(init=False)
    _most_tokens: int = field(init=False)
    _image_spans: list[range] | None = None
    _random: random.Random | None = None
    _uniforms: deque[float] = field(default_factory=deque)  # drawn for the next tokens

    def __post_init__(self) -> None:
        request, prompt = self.request, self.request.prompt
        self.sampling = sampling = request.sampling
        self.num_prompt = len(self.token_ids)
        self._most_tokens = self.num_prompt + max(1, sampling.max_tokens)  # for 0, a token that is not kept
        self.queue_deadline = self.arrival + min(request.queue_timeout, request.timeout)
        self.deadline = self.arrival + request.timeout
        self.token_logprobs = None if sampling.logprobs is None else TokenLogprobs(self.detokenizer.table)
        self.token_offsets = [] if isinstance(prompt, ChatPrompt) and prompt.thinking else None
        self.scores = PromptScores(self.num_prompt) if sampling.echo and sampling.logprobs is not None else None
        penalized = sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0
        adjusted = penalized or sampling.logit_bias or sampling.min_tokens
        self.adjustments = Adjustments(sampling, self.token_ids, self.end_token_ids) if adjusted else None
        self.needs_its_tokens = bool(penalized) or sampling.token_mask is not None
        self.adjusts_logits = self.needs_its_tokens or self.adjustments is not None

    def images_in(self, count: int) -> list[tuple[int, range]]:
        """Return the images with tokens among the next `count`: number of each, and where all its tokens are."""
        if self.images is None:
            return []
        if self._image_spans is None:
            self._image_spans = _image_spans(self.prefix_keys)
        first, end = self.num_computed, self.num_computed + count
        return [(n, span) for n, span in enumerate(self._image_spans) if span.start < end and span.stop > first]

    @property
    def ready(self) -> bool:
        """Whether its next token can be chosen without a wait for its grammar."""
        mask = self.sampling.token_mask
        return mask is None or (mask.quick if self.pending else mask.ready)

    @property
    def mask_seconds(self) -> float:
        """By how many seconds its grammar is likely to lengthen a step."""
        mask = self.sampling.token_mask
        if mask is None:
            return 0.0
        return mask.usual_seconds if self.pending else mask.step_seconds

    @property
    def mask_spent(self) -> float:
        """The seconds that its grammar has taken so far, with those that a token on its way is likely to take."""
        mask = self.sampling.token_mask
        return 0.0 if mask is None else mask.spent + self.pending * mask.usual_seconds

    @property
    def remaining(self) -> int:
        """Tokens that can be computed now: one while decoding, more during prefill, none once the last is pending."""
        tokens = len(self.token_ids) + self.pending
        return 0 if tokens >= self._most_tokens else tokens - self.num_computed

    @property
    def scoring(self) -> bool:
        """True while its prompt's tokens are scored, all of which have to be computed for that."""
        return self.scores is not None and not self.scores.complete

    @property
    def num_output(self) -> int:
        """Tokens of the answer so far."""
        return len(self.token_ids) - self.num_prompt

    def blocks_needed(self, ahead: int = 0) -> int:
        """Return how many blocks it needs to compute all its tokens, and `ahead` more as far as its answer may go."""
        return blocks_for(min(len(self.token_ids) + ahead, self.num_prompt + self.sampling.max_tokens))

    @property
    def cost(self) -> int:
        """Tokens that count for fairness when the sequence starts: how long its answer becomes is not known yet."""
        return self.num_prompt + min(self.sampling.max_tokens, COUNTED_TOKENS)

    @property
    def uncounted(self) -> int:
        """Tokens of the answer so far beyond those that counted at its start."""
        return max(0, self.num_output - COUNTED_TOKENS)

    @property
    def waits_until(self) -> float:
        """Until when it may be without a slot; the queue timeout no longer applies to a preempted one."""
        return self.queue_deadline if self.started_at is None else self.deadline

    def reason_to_end(self, now: float) -> ServiceError | None:
        """Return the error to end with if it was aborted or is past its deadline, else None."""
        if self.generation.aborted:
            return RequestAborted(STOPPED)
        if now < self.waits_until:
            return None
        if self.started_at is None:
            return DeadlineExceeded(WAITED_TOO_LONG)
        return DeadlineExceeded(OUT_OF_TIME)

    def keys(self) -> list[Hashable]:
        """Return one key for each token so far, equal where the model computes the same values."""
        return [*self.prefix_keys, *self.token_ids[self.num_prompt :]]

    def uniform(self, ahead: int = 0) -> float:
        """Return the random number in [0, 1) for the next token, or for the one `ahead` tokens after it."""
        if len(self._uniforms) <= ahead:
            if self._random is None:
                self._random = random.Random(_unsigned(self.sampling.seed))  # nosec B311 # sampling is to be repeatable
            self._uniforms += [self._random.random() for _ in range(ahead + DRAWN_AT_ONCE)]
        return self._uniforms[ahead]

    @property
    def biases(self) -> Biases:
        """The biases of the next token: token ids and what is added to their logits."""
        if self.adjustments is None:
            return array("i"), array("f")
        if self.num_output + self.pending < self.sampling.min_tokens:
            return self.adjustments.held
        return self.adjustments.bias_ids, self.adjustments.biases

    def verified(self, right: int) -> None:
        """Take the drafts of a step in which the first `right` of them were chosen."""
        if self.drafts and self.drafter is not None:
            self.drafter.learn(len(self.drafts), right, len(self.token_ids))
            self.drafts = []

    def append(self, token_id: int) -> None:
        """Append a token of the answer."""
        self.token_ids.append(token_id)
        if self.sampling.min_tokens and self.num_output == self.sampling.min_tokens + 1:
            self.detokenizer.look_for(self.sampling.stop)
        if self._uniforms:
            self._uniforms.popleft()
        if self.adjustments is not None:
            self.adjustments.append(token_id)

    def finish_reason(self, token_id: int, eos_token_ids: frozenset[int]) -> FinishReason | None:
        """Return why the answer ends with its latest token, None if it continues."""
        if self.detokenizer.stopped or (token_id in eos_token_ids and not self.sampling.ignore_eos):
            return "stop"
        return "length" if self.num_output >= self.sampling.max_tokens else None

    def add_text(self, token_id: int) -> None:
        """Add the text of the latest token of the answer to what was not sent yet."""
        if self.token_offsets is not None:
            self.token_offsets.append(self.sent_characters + len(self.unsent_text) + self.detokenizer.held)
        self.unsent_text += self.detokenizer.add(token_id)
        self.unsent_tokens.append(token_id)

    def take_piece(self, now: float, last: bool = False) -> Piece:
        """Return what was not sent yet, and count it as sent. last: at the end of the answer."""
        self.sent_characters += len(self.unsent_text)
        logprobs = self._take_logprobs(last) if self.unsent_logprobs else ()
        echo = None if self.text else self._echo()
        piece = Piece(self.unsent_text, tuple(self.unsent_tokens), logprobs, echo)
        self.text.append(self.unsent_text)
        self.unsent_text, self.unsent_tokens = "", []
        self.last_push = now
        return piece

    def _take_logprobs(self, last: bool) -> tuple[TokenLogprob, ...]:
        """Take those of tokens whose text is sent; at the end also of those without one, but of no stop string's."""
        sent, ready = self.sent_characters, self.unsent_logprobs
        taken = [one for one in ready if one.offset < sent or (last and not one.token and one.offset == sent)]
        self.unsent_logprobs = [] if last else [one for one in ready if one.offset >= sent]
        self.logprobs += taken
        return tuple(taken)

    def completion(self, reason: FinishReason, now: float) -> Completion:
        """Return the whole answer with its timings, once all pieces have been taken."""
        started = now if self.started_at is None else self.started_at
        first = None if self.first_token_at is None else self.first_token_at - self.arrival
        return Completion(
            text="".join(self.text),
            finish_reason=reason,
            prompt_tokens=self.num_prompt,
            output_tokens=self.num_output,
            timings=Timings(started - self.arrival, first, now - self.arrival),
            logprobs=tuple(self.logprobs),
            cached_tokens=self.cached_tokens,
            stop=self.detokenizer.stop,
            token_ids=tuple(self.token_ids[self.num_prompt :]),
            token_offsets=tuple(self.token_offsets or ()),
            echo=self._echo(),
        )

    def spent(self, now: float) -> Spent:
        """Return what it took so far: of its prompt what was computed, unless all of it was."""
        if self.started_at is None:
            return Spent()
        computed = max(self.num_computed, self.most_computed)
        prompt = self.num_prompt if self.num_output else min(computed, self.num_prompt)
        return Spent(prompt, self.num_output, min(self.cached_tokens, prompt), now - self.started_at)

    def _echo(self) -> PromptEcho | None:
        if not self.sampling.echo or self.spelling is None:
            return None
        scores = None if self.scores is None else tuple(self.scores.known)
        return PromptEcho(self.spelling, tuple(self.token_ids[: self.num_prompt]), scores)

    def release(self) -> None:
        """Drop the tensors, so that no reference to a finished sequence keeps them alive."""
        self.images = self.positions = None
        self.image_embeds = {}


def _image_spans(keys: list[Hashable]) -> list[range]:
    """Return where the tokens of each image are in a prompt. keys: its `prefix_keys`."""
    spans, place = list[range](), 0
    for of_image, group in groupby(keys, lambda key: key[0] if isinstance(key, tuple) else None):
        length = sum(1 for _ in group)
        if of_image is not None:
            spans.append(range(place, place + length))
        place += length
    return spans


def _unsigned(seed: int | None) -> int | None:
    """Return a signed seed of 64 bits as an unsigned one: Python's generator would take -7 for 7."""
    return None if seed is None else seed % 2**64
