"""A model that servers elsewhere answer for, behind the engine's interface."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

import aiohttp

from config import Upstream
from engine.backend import Generation
from engine.errors import ContextTooLong, Message, NotReady, RetryLater, StartError, Unsupported
from engine.schedule.in_flight import Wake
from engine.text.estimate import MOST_BYTES_A_TOKEN, prompt_tokens
from engine.text.prompt_size import check_prompt_size
from engine.types import (
    BackendState,
    BackendStats,
    ChatPrompt,
    DetokenizeRequest,
    GenerationRequest,
    ModelInfo,
    Progress,
    ServerReport,
    Spelled,
    Spent,
    Status,
    TokenizeRequest,
    Vocabulary,
)
from engine.wanted import Wanted
from upstream.amendment import LENGTH, most_taken, refused_field, room_left
from upstream.call import Amendments, Call, Letter
from upstream.checking import AnswerCheck
from upstream.failures import AttemptFailed, away, is_too_long, of_exception
from upstream.fleet import Fleet, prefix_of
from upstream.in_flight import Capacity
from upstream.loop import UpstreamLoop
from upstream.replica import OPEN, Replica
from upstream.request_body import encode

log = logging.getLogger("avito_ai.upstream")

NO_TOKENS = "The server that answers for this model counts its tokens itself; they cannot be told here."
TICK = 0.25  # seconds between two looks at what is to be probed


def _wanted_fields(request: GenerationRequest) -> frozenset[str]:
    """Return those of OWN_FIELDS by which the client has its own will."""
    prompt = request.prompt
    return frozenset({"chat_template_kwargs"} if isinstance(prompt, ChatPrompt) and prompt.thinking else ())


class UpstreamBackend:
    """Backend over an OpenAI-compatible server, or several. See `Backend` for the contract of each method.

    context, capacity: of the settings, where the upstream has none of its own; clock: seconds, monotonic.
    """

    def __init__(
        self,
        upstream: Upstream,
        loop: UpstreamLoop,
        context: int,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        upstream = replace(upstream, max_model_len=upstream.max_model_len or context)
        self._upstream, self._loop, self._clock = upstream, loop, clock
        self.fleet = Fleet(upstream, clock)
        self._capacity = Capacity(upstream.max_in_flight or capacity, clock)
        self._info = ModelInfo(
            name=upstream.name,
            served_id=upstream.name,
            vision=upstream.vision,
            demo=False,
            max_model_len=upstream.max_model_len,
            tools="tools" in upstream.takes,
            elsewhere=True,
            default_temperature=1.0 if upstream.of_provider else None,  # that of every provider
        )
        self.stand_in: Callable[[GenerationRequest], Generation] | None = None  # asked where every attempt failed
        self._tls: ssl.SSLContext | bool = True
        self._lock = threading.Lock()  # guards the fields below
        self._started = self._draining = self._stopped = False
        self._calls: set[Call] = set()
        self._checks: WeakValueDictionary[tuple[int, str], AnswerCheck] = WeakValueDictionary()  # by their rules
        self._omitted: frozenset[str] = frozenset()  # fields of ours that the servers have refused
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def upstream(self) -> Upstream:
        """What the settings say of it."""
        return self._upstream

    def reports(self) -> list[ServerReport]:
        """Return what is known of each server, in the order of the settings."""
        return [one.report() for one in self.fleet.replicas]

    def use_key(self, key: str) -> None:
        """Send another key with each later request."""
        self._upstream = replace(self._upstream, key=key)

    def vocabulary(self) -> Vocabulary | None:
        return None

    def start(self) -> None:
        if self._upstream.ca_file is not None:
            try:
                self._tls = ssl.create_default_context(cafile=str(self._upstream.ca_file))
            except OSError as error:
                raise StartError(f"UPSTREAMS_FILE: {self._upstream.name}: ca_file: {error.strerror}.") from None
        self._loop.enter()
        looked = threading.Event()
        self._loop.soon(lambda: self._loop.spawn(self._begin(looked)))
        looked.wait(self._upstream.connect_timeout + self._probe_timeout())
        with self._lock:
            self._started = True

    def submit(self, request: GenerationRequest) -> Generation:
        arrival = self._clock()
        self._check_ready()
        self._capacity.admit(request.client)
        return self._begun(request, arrival)

    def submit_when_free(self, request: GenerationRequest, alone: bool, wake: Wake) -> Generation | None:
        arrival = self._clock()
        self._check_ready()
        if not self._capacity.admit_when_free(request.client, alone, wake):
            return None
        return self._begun(request, arrival, of_batch=True)

    def stop_waiting(self, wake: Wake) -> None:
        self._capacity.stop_waiting(wake)

    def would_refuse(self, client: str) -> RetryLater | None:
        return self._not_ready() or self._capacity.would_refuse(client)

    def most_at_once(self) -> int:
        return self._capacity.most_of_one

    def tokenize(self, request: TokenizeRequest) -> list[int]:
        raise Unsupported(NO_TOKENS, "model")

    def detokenize(self, request: DetokenizeRequest) -> Spelled:
        raise Unsupported(NO_TOKENS, "model")

    def state(self) -> BackendState:
        with self._lock:
            started, draining = self._started, self._draining
        if draining:
            return BackendState(Status.DRAINING, "the service is stopping")
        if not started:
            return BackendState(Status.LOADING, progress=Progress(Message("stage_servers", "asking the servers")))
        if not self.fleet.alive:
            return BackendState(Status.STALLED, "no server that answers for the model can be reached")
        return BackendState(Status.READY)

    def stats(self) -> BackendStats:
        return BackendStats(
            num_requests_running=self._capacity.total,
            max_num_seqs=self._capacity.capacity,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            generation_tokens_total=self._output_tokens,
        )

    def drain(self) -> None:
        with self._lock:
            self._draining = True

    def stop(self, timeout: float) -> None:
        self.drain()
        self._capacity.wait_until_empty(timeout)
        with self._lock:
            left, self._stopped, started = list(self._calls), True, self._started
        for call in left:
            self._loop.soon(call.cancel)
        if left:
            self._capacity.wait_until_empty(self._probe_timeout())
        if started:
            self._loop.leave()

    # Called by the caller's thread.

    def _check_ready(self) -> None:
        if (refusal := self._not_ready()) is not None:
            raise refusal

    def _not_ready(self) -> NotReady | None:
        state = self.state()
        if state.status is not Status.READY:
            return NotReady(f"The model is not ready: {state.reason or 'it is loading'}.")
        return None if self.fleet.usable else away(self.fleet.left_open())

    def _begun(self, request: GenerationRequest, arrival: float, of_batch: bool = False) -> Generation:
        try:
            call = self._call(request, arrival, partial(self._ended, request.client, of_batch))
            self._keep(call)
        except BaseException:
            self._capacity.leave(request.client, of_batch)
            raise
        self._loop.soon_first(call.start)
        return call.generation

    def _keep(self, call: Call) -> None:
        """Note a request, so that `stop` ends it. Raises NotReady where that was called meanwhile."""
        with self._lock:
            if self._stopped:
                raise NotReady("The model is not ready: the service is stopping.")
            self._calls.add(call)

    def _call(self, request: GenerationRequest, arrival: float, ended: Callable[[Call], None]) -> Call:
        context = self._info.max_model_len
        check_prompt_size(request.prompt, context)
        estimate = prompt_tokens(request.prompt)
        room = context - prompt_tokens(request.prompt, MOST_BYTES_A_TOKEN)  # a server says so where fewer are left
        max_tokens = request.sampling.within(room if room > 0 else context - 1).max_tokens
        if max_tokens >= context:
            raise ContextTooLong("The answer alone does not fit into this model's context.", "max_tokens", context)
        return Call(
            self._upstream,
            self.fleet,
            self._loop,
            request,
            self._letter(request, max_tokens, self._omitted - _wanted_fields(request)),
            Amendments(partial(self._amended, request, context - estimate), self._omit),
            prefix_of(request) if len(self.fleet.replicas) > 1 else b"",
            estimate,
            self._check(request, arrival),
            self.stand_in,
            ended,
            arrival,
            self._clock,
        )

    def _check(self, request: GenerationRequest, arrival: float) -> AnswerCheck:
        """Return what holds an answer to its rules: the answers of one request have the same, and so the same check.

        Raises what `AnswerCheck` raises, and RequestAborted or DeadlineExceeded once nobody waits for it any more.
        """
        rules = request.sampling.rules
        key = id(rules), request.client  # no others have this id, since a check keeps its rules
        with self._lock:
            check = self._checks.get(key)
        if check is not None:
            return check
        wanted = Wanted(arrival + request.timeout, request.client, self._clock)
        with request.cancellation.notifying(wanted.cancel):
            check = AnswerCheck(rules, request.client, wanted)
        with self._lock:
            self._checks[key] = check
        return check

    def _letter(self, request: GenerationRequest, max_tokens: int, without: frozenset[str]) -> Letter:
        """Return what is sent. without: fields that are left out."""
        path, body, own = encode(self._upstream, request, max_tokens, without)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "X-Request-ID": request.request_id,
        }
        if request.trace:
            headers["traceparent"] = request.trace
        return Letter(path, body, headers | self._authorization(), self._tls, max_tokens, own, without)

    def _amended(self, request: GenerationRequest, room: int, letter: Letter, said: str) -> Letter | None:
        """Return what is sent in place of what a server has refused, None if that was the client's own.

        room: tokens that the prompt leaves at least; said: the refusal, in lower case.
        """
        left, too_long = most_taken(said), is_too_long(said)
        own = letter.own - _wanted_fields(request)
        if left is not None or too_long:
            own -= {LENGTH}  # it is named for its value
        if (refused := refused_field(own, said)) is not None:
            return self._letter(request, letter.max_tokens, letter.without | {refused})
        if not request.sampling.fit_context:
            return None
        if left is None and too_long:
            left = room_left(said)
            if left is None or left == letter.max_tokens - 1:  # vLLM before 0.32 counts no further than that
                left = room if 0 < room < letter.max_tokens else letter.max_tokens // 2
        return self._letter(request, left, letter.without) if left and 0 < left < letter.max_tokens else None

    def _omit(self, fields: frozenset[str]) -> None:
        """Leave fields out from now on, without which a request that was refused was taken."""
        if new := fields - self._omitted:
            self._omitted |= new
            log.warning("%s does not take %s, which is left out from now on.", self._upstream.name, ", ".join(new))

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._upstream.key}"} if self._upstream.key else {}

    # Called by the loop's thread.

    def _ended(self, client: str, of_batch: bool, call: Call) -> None:
        reader, took = call.reader, call.generation.repeated
        if reader.finish_reason is not None:
            took += Spent(reader.prompt_tokens, reader.output_tokens, reader.cached_tokens)
        with self._lock:
            self._calls.discard(call)
            self._prompt_tokens += took.prompt_tokens
            self._cached_tokens += took.cached_tokens
            self._output_tokens += took.output_tokens
        self._capacity.leave(client, of_batch)

    async def _begin(self, looked: threading.Event) -> None:
        """Probe every server, where the settings have any probed, and go on watching each."""
        if self._upstream.probe_seconds:
            await asyncio.gather(*(self._probe(one, at_start=True) for one in self.fleet.replicas))
        for one in self.fleet.replicas:
            self._loop.spawn(self._watch(one))
        looked.set()

    async def _watch(self, replica: Replica) -> None:
        """Probe a server that has not answered for a while, or whose breaker is due."""
        every = self._upstream.probe_seconds
        while not self._stopped:
            await asyncio.sleep(TICK)
            if replica.due and not every:
                replica.half_open()  # without probes, a request has to try
            elif replica.due or (
                every
                and replica.state != OPEN
                and (replica.suspected or not replica.outstanding)
                and replica.idle_since > every
            ):
                await self._probe(replica)

    async def _probe(self, replica: Replica, at_start: bool = False) -> None:
        """Ask a server for its models: any answer but a server error shows that it is there."""
        try:
            async with self._loop.session.get(
                f"{replica.url}/models",
                headers=self._authorization(),
                allow_redirects=False,
                ssl=self._tls,
                timeout=aiohttp.ClientTimeout(total=self._probe_timeout(), sock_connect=self._upstream.connect_timeout),
            ) as response:
                if response.status >= 500:
                    raise TimeoutError
        except Exception as error:
            failure = of_exception(error)
            replica.failed(AttemptFailed("probe", failure.error, away=True))
            if at_start or replica.due:
                replica.open()
            return
        if replica.state == OPEN:
            replica.half_open()
        replica.answered()

    def _probe_timeout(self) -> float:
        return min(5.0, self._upstream.first_token_timeout)
